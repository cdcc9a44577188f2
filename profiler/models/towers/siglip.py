"""SigLIP's vision tower, as LLaVA-OneVision has it: no class token, no norm before the layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..checkpoint.reader import Reader
from ..shapes import Vision
from .clip import ClipBlock, feature_layers, sizes_of

if TYPE_CHECKING:
    from torch import Tensor

    from ....methods.engine.attention import Attention


class SiglipBlock(ClipBlock):
    """A block as CLIP has it, whose attention passes no arguments on to the kernel: what it is told
    lies on the module."""

    def __call__(self, hidden: Tensor, tpprof: Attention, bias: Tensor | None = None) -> Tensor:
        from ....methods.engine.attention import told

        with told(self.layer.self_attn, tpprof):
            output: Tensor = self.layer(hidden, attention_mask=bias)
        return output

    def attend(self, hidden: Tensor, tpprof: Attention, bias: Tensor | None = None) -> Tensor:
        from ....methods.engine.attention import told

        normed = self.layer.layer_norm1(hidden)
        with told(self.layer.self_attn, tpprof):
            attended, _ = self.layer.self_attn(normed, attention_mask=bias)
        result: Tensor = hidden + attended
        return result


def siglip_vision(
    layers: int,
    hidden: int,
    intermediate: int,
    heads: int,
    *,
    patch: int = 14,
    image: int = 384,
    feature_layers: tuple[int, ...] = (-1,),
) -> Vision:
    """A tower as SigLIP has it without its head: learned positions, and a norm behind that nothing
    reads."""
    return Vision(
        layers,
        hidden,
        intermediate,
        heads,
        patch=patch,
        image=image,
        feature_layers=feature_layers,
        class_token=False,
        inner_states=2,
        patch_bias=True,
        beside=((image // patch) ** 2 + 2) * hidden,
    )


SIGLIP_400M = siglip_vision(26, 1152, 4304, 16)
SMALL_SIGLIP = siglip_vision(4, 256, 1024, 4)
MICRO_SIGLIP = siglip_vision(4, 48, 96, 3, image=56)


def siglip_config(vision: Vision) -> Any:
    """The transformers config of the tower."""
    from transformers import SiglipVisionConfig

    return SiglipVisionConfig(
        hidden_size=vision.hidden,
        intermediate_size=vision.intermediate,
        num_hidden_layers=vision.layers,
        num_attention_heads=vision.heads,
        image_size=vision.image,
        patch_size=vision.patch,
        vision_use_head=False,
    )


def siglip_from(name: str, given: Any) -> Vision:
    """The tower that the config of a LLaVA-OneVision describes; raises ModelError."""
    reader = Reader(name, "vision_config", given.vision_config)
    sizes = sizes_of(reader, "siglip_vision_model")
    if getattr(reader.config, "vision_use_head", True):
        reader.refuse("vision_use_head True is not supported: nothing reads that head")
    chosen = feature_layers(Reader(name, "config.json", given), sizes["layers"])
    return siglip_vision(**sizes, feature_layers=chosen)
