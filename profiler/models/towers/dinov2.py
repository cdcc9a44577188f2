"""DINOv2's vision tower: a class token, learned positions for pictures of one size that are
stretched to those of another, scaled branches, no norm before the layers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..checkpoint.reader import MOST, Reader
from ..shapes import Vision
from .clip import selected_layers

if TYPE_CHECKING:
    from torch import Tensor

    from ....methods.engine.attention import Attention

DINOV2 = "dinov2"
"""What a config calls the tower."""


@dataclass(frozen=True)
class Dinov2Block:
    """A block of DINOv2; see the TowerBlock protocol. In some versions of transformers its forward
    takes nothing beside the states, and its attention no mask."""

    layer: Any

    def __call__(self, hidden: Tensor, tpprof: Attention, bias: Tensor | None = None) -> Tensor:
        return self.feed_forward(self.attend(hidden, tpprof, bias))

    def attend(self, hidden: Tensor, tpprof: Attention, bias: Tensor | None = None) -> Tensor:
        given = tpprof if bias is None else replace(tpprof, bias=bias)
        attended = self.layer.attention(self.layer.norm1(hidden), tpprof=given)
        output = attended[0] if isinstance(attended, tuple) else attended
        result: Tensor = self.layer.layer_scale1(output) + hidden
        return result

    def feed_forward(self, hidden: Tensor) -> Tensor:
        inner = self.layer.mlp(self.layer.norm2(hidden))
        result: Tensor = self.layer.layer_scale2(inner) + hidden
        return result


def dinov2_vision(
    layers: int,
    hidden: int,
    intermediate: int,
    heads: int,
    *,
    patch: int = 14,
    image: int = 336,
    made_for: int = 518,
    feature_layers: tuple[int, ...] = (-2,),
    qkv_bias: bool = True,
    mask_token: bool = False,
) -> Vision:
    """A tower as DINOv2 has it. made_for: side in pixels of the pictures that it has positions of.
    mask_token: whether it holds the one of its pretraining, which nothing reads."""
    positions = (made_for // patch) ** 2 + 1
    return Vision(
        layers,
        hidden,
        intermediate,
        heads,
        patch=patch,
        image=image,
        feature_layers=feature_layers,
        inner_states=2,
        patch_bias=True,
        qkv_bias=qkv_bias,
        scaled=True,
        wide_softmax=False,
        beside=(1 + mask_token + positions + 2) * hidden,
    )


MICRO_DINOV2 = dinov2_vision(4, 48, 96, 3, image=84, made_for=84)


def dinov2_config(vision: Vision) -> Any:
    """The transformers config of a tower that is made for pictures of its own size."""
    from transformers import Dinov2Config

    return Dinov2Config(
        hidden_size=vision.hidden,
        mlp_ratio=vision.intermediate // vision.hidden,
        num_hidden_layers=vision.layers,
        num_attention_heads=vision.heads,
        image_size=vision.image,
        patch_size=vision.patch,
        qkv_bias=vision.qkv_bias,
        use_mask_token=False,
    )


def dinov2_from(name: str, given: Any) -> Vision:
    """The tower that the config of a LLaVA describes; raises ModelError. Its pictures have as many
    patches as the config's `image_seq_length` says: the tower itself takes any."""
    config = given.vision_config
    reader = Reader(name, "vision_config", config)
    reader.activation("hidden_act")
    reader.require("num_channels", 3)
    reader.require("use_swiglu_ffn", False)
    layers = reader.count("num_hidden_layers", MOST["layers"])
    hidden = reader.count("hidden_size", MOST["width"])
    ratio = config.mlp_ratio
    if not isinstance(ratio, (int, float)) or not 1 <= hidden * ratio <= MOST["width"]:
        reader.refuse(f"mlp_ratio is {ratio!r}; known: a number")
    patch = reader.count("patch_size", MOST["pixels"])
    return dinov2_vision(
        layers,
        hidden,
        int(hidden * ratio),
        reader.count("num_attention_heads", MOST["heads"]),
        patch=patch,
        image=patch * _side(name, given),
        made_for=reader.count("image_size", MOST["pixels"], least=patch),
        feature_layers=selected_layers(name, given, layers),
        qkv_bias=reader.flag("qkv_bias"),
        mask_token=reader.flag("use_mask_token"),
    )


def _side(name: str, given: Any) -> int:
    """Patches along one side of a picture."""
    whole = Reader(name, "config.json", given)
    tokens = whole.count("image_seq_length", MOST["pixels"])
    side = math.isqrt(tokens)
    if side * side != tokens:
        whole.refuse(f"image_seq_length is {tokens}; known: the patches of a square")
    return side
