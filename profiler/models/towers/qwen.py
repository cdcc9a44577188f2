"""The vision tower of Qwen's models: pictures of any resolution, held in one row of patches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ....methods.contract.request import Size
from ..shapes import Shape, ShapeError, Vision

if TYPE_CHECKING:
    from torch import Tensor

    from ....methods.engine.attention import Attention

LONGEST = 200  # times the shorter side that the longer one may be


@dataclass(frozen=True)
class QwenBlock:
    """A block of Qwen2-VL's tower; see the TowerBlock protocol.

    ends: where each picture's patches end, on the host, and for FlashAttention, which takes them
    there, on the device. rotary: cosine and sine of the patches. longest: the most patches of one.
    """

    layer: Any
    ends: Tensor | None
    rotary: tuple[Tensor, Tensor]
    longest: int | None = None

    def __call__(self, hidden: Tensor, tpprof: Attention, bias: Tensor | None = None) -> Tensor:
        output: Tensor = self.layer(
            hidden,
            cu_seqlens=self.ends,
            max_seqlen=self.longest,
            position_embeddings=self.rotary,
            tpprof=tpprof,
        )
        return output

    def attend(self, hidden: Tensor, tpprof: Attention, bias: Tensor | None = None) -> Tensor:
        attended: Tensor = self.layer.attn(
            self.layer.norm1(hidden),
            cu_seqlens=self.ends,
            max_seqlen=self.longest,
            position_embeddings=self.rotary,
            tpprof=tpprof,
        )
        return hidden + attended

    def feed_forward(self, hidden: Tensor) -> Tensor:
        result: Tensor = hidden + self.layer.mlp(self.layer.norm2(hidden))
        return result


def tower_options(vision: Vision) -> dict[str, int]:
    """What the vision sections of the transformers configs have in common."""
    return {
        "depth": vision.layers,
        "num_heads": vision.heads,
        "patch_size": vision.patch,
        "spatial_merge_size": vision.merge,
        "temporal_patch_size": vision.temporal,
    }


def dynamic_size(shape: Shape, height: int, width: int) -> Size:
    """The size in pixels to which a picture is resized. Raises ShapeError for a picture that the
    model does not take."""
    return bounded_size(shape, (height, width), shape.vision.least_pixels, shape.vision.most_pixels)


def bounded_size(shape: Shape, size: Size, least: int, most: int) -> Size:
    """A size in pixels of whole tokens and bounded area. Raises ShapeError for a picture that the
    model does not take."""
    height, width = size
    if max(height, width) > LONGEST * min(height, width):
        raise ShapeError(
            f"{shape.name} takes no picture of {width}x{height} (width x height): the longer side "
            f"is at most {LONGEST} times the shorter one"
        )
    unit = shape.vision.unit
    rows, columns = round(height / unit) * unit, round(width / unit) * unit
    if rows * columns > most:
        shrink = math.sqrt(height * width / most)
        rows = max(unit, math.floor(height / shrink / unit) * unit)
        columns = max(unit, math.floor(width / shrink / unit) * unit)
    elif rows * columns < least:
        grow = math.sqrt(least / (height * width))
        rows = math.ceil(height * grow / unit) * unit
        columns = math.ceil(width * grow / unit) * unit
    return rows, columns
