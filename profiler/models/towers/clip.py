"""CLIP's vision tower, as LLaVA has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..checkpoint.reader import MOST, Reader
from ..shapes import Vision

if TYPE_CHECKING:
    from torch import Tensor

    from ....methods.engine.attention import Attention


@dataclass(frozen=True)
class ClipBlock:
    """A block of CLIP's tower; see the TowerBlock protocol."""

    layer: Any

    def __call__(self, hidden: Tensor, tpprof: Attention, bias: Tensor | None = None) -> Tensor:
        output: Tensor = self.layer(hidden, attention_mask=bias, tpprof=tpprof)
        return output

    def attend(self, hidden: Tensor, tpprof: Attention, bias: Tensor | None = None) -> Tensor:
        normed = self.layer.layer_norm1(hidden)
        attended, _ = self.layer.self_attn(normed, attention_mask=bias, tpprof=tpprof)
        result: Tensor = hidden + attended
        return result

    def feed_forward(self, hidden: Tensor) -> Tensor:
        result: Tensor = hidden + self.layer.mlp(self.layer.layer_norm2(hidden))
        return result


def clip_vision(
    layers: int,
    hidden: int,
    intermediate: int,
    heads: int,
    *,
    patch: int = 14,
    image: int = 336,
    feature_layers: tuple[int, ...] = (-2,),
) -> Vision:
    """A tower as CLIP has it: a class token, learned positions, a norm before and one behind."""
    positions = (image // patch) ** 2 + 1
    return Vision(
        layers,
        hidden,
        intermediate,
        heads,
        patch=patch,
        image=image,
        feature_layers=feature_layers,
        beside=(1 + positions + 4) * hidden,
    )


CLIP_LARGE = clip_vision(24, 1024, 4096, 16)
SMALL_CLIP = clip_vision(4, 256, 1024, 4)
MICRO_CLIP = clip_vision(4, 48, 96, 3, image=84)


def clip_config(vision: Vision) -> Any:
    """The transformers config of the tower."""
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(
        hidden_size=vision.hidden,
        intermediate_size=vision.intermediate,
        num_hidden_layers=vision.layers,
        num_attention_heads=vision.heads,
        image_size=vision.image,
        patch_size=vision.patch,
    )


def clip_from(name: str, given: Any) -> Vision:
    """The tower that the config of a LLaVA describes; raises ModelError."""
    sizes = sizes_of(Reader(name, "vision_config", given.vision_config), "clip_vision_model")
    return clip_vision(**sizes, feature_layers=selected_layers(name, given, sizes["layers"]))


def sizes_of(reader: Reader, kind: str) -> dict[str, int]:
    """The sizes in the config of a tower that is read as CLIP's is, by parameter of `clip_vision`.
    Raises ModelError for a tower of another kind."""
    if reader.config.model_type != kind:
        reader.refuse(f"the tower {reader.config.model_type!r} is not supported; known: {kind}")
    reader.activation("hidden_act")
    reader.require("num_channels", 3)
    patch = reader.count("patch_size", MOST["pixels"])
    return {
        "layers": reader.count("num_hidden_layers", MOST["layers"]),
        "hidden": reader.count("hidden_size", MOST["width"]),
        "intermediate": reader.count("intermediate_size", MOST["width"]),
        "heads": reader.count("num_attention_heads", MOST["heads"]),
        "patch": patch,
        "image": reader.count("image_size", MOST["pixels"], least=patch),
    }


def selected_layers(name: str, given: Any, layers: int) -> tuple[int, ...]:
    """The layers whose patches the projector of a LLaVA is given, without the class token."""
    whole = Reader(name, "config.json", given)
    whole.require("vision_feature_select_strategy", "default")
    whole.activation("projector_hidden_act")
    return feature_layers(whole, layers)


def feature_layers(reader: Reader, layers: int) -> tuple[int, ...]:
    """`vision_feature_layer` of a config, one or several; refused where the tower has none such."""
    chosen = reader.config.vision_feature_layer
    listed = chosen if isinstance(chosen, (list, tuple)) else [chosen]
    if not listed or not all(type(n) is int and -layers - 1 <= n <= layers for n in listed):
        reader.refuse(f"vision_feature_layer {chosen!r}: the tower has {layers} layers")
    if chosen == 0:
        reader.refuse(
            "vision_feature_layer 0 alone is taken for none by transformers, whose forward fails; "
            f"known: {-layers - 1}, which is the same"
        )
    return tuple(listed)
