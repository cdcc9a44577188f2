"""InternViT, the vision tower of InternVL: a class token, learned positions, scaled branches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..checkpoint.reader import MOST, Reader
from ..shapes import Vision
from .clip import feature_layers

if TYPE_CHECKING:
    from torch import Tensor

    from ....methods.engine.attention import Attention

NORM_VECTORS = {"layer_norm": 2, "rms_norm": 1}


@dataclass(frozen=True)
class InternVitBlock:
    """A block of InternViT; see the TowerBlock protocol. transformers' own forward of it takes no
    arguments beside the states."""

    layer: Any

    def __call__(self, hidden: Tensor, tpprof: Attention, bias: Tensor | None = None) -> Tensor:
        return self.feed_forward(self.attend(hidden, tpprof, bias))

    def attend(self, hidden: Tensor, tpprof: Attention, bias: Tensor | None = None) -> Tensor:
        normed = self.layer.layernorm_before(hidden)
        attended, _ = self.layer.attention(normed, attention_mask=bias, tpprof=tpprof)
        result: Tensor = self.layer.lambda_1 * attended + hidden
        return result

    def feed_forward(self, hidden: Tensor) -> Tensor:
        inner = self.layer.mlp(self.layer.layernorm_after(hidden))
        result: Tensor = self.layer.lambda_2 * inner + hidden
        return result


def internvit(
    layers: int,
    hidden: int,
    intermediate: int,
    heads: int,
    *,
    patch: int = 14,
    image: int = 448,
    feature_layers: tuple[int, ...] = (-1,),
    qkv_bias: bool = True,
    qk_norm: bool = False,
    norm_vectors: int = 2,
) -> Vision:
    """A tower as InternVL has it, of whose patches 2 x 2 are joined. qk_norm: queries and keys go
    through norms of the whole width."""
    positions = (image // patch) ** 2 + 1
    return Vision(
        layers,
        hidden,
        intermediate,
        heads,
        patch=patch,
        image=image,
        merge=2,
        feature_layers=feature_layers,
        norm_vectors=norm_vectors,
        patch_bias=True,
        qkv_bias=qkv_bias,
        scaled=True,
        wide_softmax=False,
        layer_weights=2 * hidden * qk_norm,
        beside=(1 + positions) * hidden,
    )


INTERNVIT_300M = internvit(24, 1024, 4096, 16)
INTERNVIT_6B = internvit(45, 3200, 12800, 25, qkv_bias=False, qk_norm=True, norm_vectors=1)
SMALL_INTERNVIT = internvit(4, 256, 1024, 4)
MICRO_INTERNVIT = internvit(4, 48, 96, 3, image=84)


def internvit_config(vision: Vision) -> Any:
    """The transformers config of the tower."""
    from transformers import InternVLVisionConfig

    norms = {vectors: name for name, vectors in NORM_VECTORS.items()}
    return InternVLVisionConfig(
        hidden_size=vision.hidden,
        intermediate_size=vision.intermediate,
        num_hidden_layers=vision.layers,
        num_attention_heads=vision.heads,
        image_size=vision.image,
        patch_size=vision.patch,
        attention_bias=vision.qkv_bias,
        use_qk_norm=vision.layer_weights > 0,
        norm_type=norms[vision.norm_vectors],
    )


def internvit_from(name: str, given: Any) -> Vision:
    """The tower that the config of an InternVL describes; raises ModelError."""
    config = given.vision_config
    reader = Reader(name, "vision_config", config)
    reader.activation("hidden_act")
    reader.require("num_channels", 3)
    reader.require("norm_type", *NORM_VECTORS)
    reader.require("use_mask_token", False)
    reader.require("use_mean_pooling", True)
    reader.require("use_absolute_position_embeddings", True)
    layers = reader.count("num_hidden_layers", MOST["layers"])
    whole = Reader(name, "config.json", given)
    chosen = feature_layers(whole, layers)
    if len(chosen) > 1:
        whole.refuse(f"vision_feature_layer {list(chosen)!r} is not supported; known: one layer")
    patch = _side(reader, "patch_size")
    return internvit(
        layers,
        reader.count("hidden_size", MOST["width"]),
        reader.count("intermediate_size", MOST["width"]),
        reader.count("num_attention_heads", MOST["heads"]),
        patch=patch,
        image=_side(reader, "image_size", least=2 * patch),
        feature_layers=chosen,
        qkv_bias=reader.flag("attention_bias"),
        qk_norm=reader.flag("use_qk_norm"),
        norm_vectors=NORM_VECTORS[config.norm_type],
    )


def _side(reader: Reader, key: str, least: int = 1) -> int:
    """The side in pixels of a square, which the config gives for height and width."""
    sides = getattr(reader.config, key)
    square = isinstance(sides, (list, tuple)) and len(set(sides)) == 1 and type(sides[0]) is int
    if not square or not least <= sides[0] <= MOST["pixels"]:
        reader.refuse(f"{key} is {str(sides)[:40]}; known: a square of {least} pixels or more")
    side: int = sides[0]
    return side
