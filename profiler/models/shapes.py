"""Model shapes: the numbers that FLOPs, KV bytes and parameters follow from. No torch here."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

from ...methods.contract.errors import InputError

Architecture = Literal["llava", "llava-next", "qwen2-vl"]

NEXT_PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
VICUNA_VOCABULARY = 32064  # 32000 and the placeholders that the converted checkpoints add


LONGEST = 200  # times the shorter side that Qwen2-VL's longer one may be


class ShapeError(InputError):
    """A picture that a model of this shape does not take."""


@dataclass(frozen=True)
class Text:
    """The decoder: layers of width `hidden`, gated FFN of width `intermediate`, grouped heads.

    tied: the head shares the weights of the embedding. head_size: width of a head, where it is not
    hidden / heads. *_bias: of the products of attention, of its output, and of the FFN. norms:
    vectors of width `hidden` that a layer's norms hold. qk_norm: weights of the norms of queries
    and keys in a layer. positions: the most that the model is made for.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    qkv_bias: bool = False
    tied: bool = False
    head_size: int | None = None
    output_bias: bool = False
    ffn_bias: bool = False
    norms: int = 2
    qk_norm: int = 0
    positions: int = 4096

    @property
    def head_dim(self) -> int:
        return self.head_size or self.hidden // self.heads

    @property
    def attention_width(self) -> int:
        """Width of the queries of all heads together, and of what attention gives."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of the keys, and of the values, of all their heads together."""
        return self.kv_heads * self.head_dim

    @property
    def parameters(self) -> int:
        """Weights of embedding, layers, norms and head."""
        queries, kv, inner = self.attention_width, self.kv_width, self.intermediate
        products = 2 * self.hidden * (queries + kv) + 3 * self.hidden * inner
        biases = (
            self.qkv_bias * (queries + 2 * kv)
            + self.output_bias * self.hidden
            + self.ffn_bias * (2 * inner + self.hidden)
        )
        layer = products + biases + self.norms * self.hidden + self.qk_norm
        embeddings = (1 if self.tied else 2) * self.vocabulary * self.hidden
        return self.layers * layer + self.hidden + embeddings


@dataclass(frozen=True)
class Vision:
    """The vision tower: `layers` of width `hidden` over `patch` x `patch` pixels.

    `image`: side in pixels of the square tile that CLIP takes (LLaVA); ignored by Qwen2-VL, which
    takes any multiple of `patch * merge` and joins `merge` x `merge` patches into one token.
    `feature_layers`: whose outputs stand side by side in what the projector is given, as
    transformers counts (0 the patch embedding, -1 the last layer); Qwen2-VL's is the last.
    `least_pixels`, `most_pixels`: the area to which Qwen2-VL's image processor resizes.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    patch: int = 14
    image: int = 336
    merge: int = 1
    temporal: int = 1
    feature_layers: tuple[int, ...] = (-2,)
    least_pixels: int = 56 * 56
    most_pixels: int = 28 * 28 * 1280

    @property
    def first_feature(self) -> int:
        """The first layer whose output the projector is given; -1 for the patch embedding."""
        return min(layer % (self.layers + 1) for layer in self.feature_layers) - 1

    @property
    def side(self) -> int:
        """Patches along one side of a tile."""
        return self.image // self.patch

    @property
    def patch_weights(self) -> int:
        """Weights, and MACs per patch, of the patch embedding."""
        return 3 * self.temporal * self.patch**2 * self.hidden


@dataclass(frozen=True)
class Shape:
    """An architecture with its numbers. `pinpoints`: tile layouts of LLaVA-NeXT, in pixels.
    `projector_bias`: of both products of the projector."""

    name: str
    architecture: Architecture
    text: Text
    vision: Vision
    pinpoints: tuple[tuple[int, int], ...] = ()
    about: str = ""
    projector_bias: bool = True

    @property
    def parameters(self) -> int:
        """All weights of the model."""
        vision, width = self.vision, self.vision.hidden
        layer = 4 * width * width + 2 * width * vision.intermediate + 9 * width
        tower = vision.layers * (layer + vision.intermediate) + vision.patch_weights
        if self.architecture == "qwen2-vl":
            joined = width * vision.merge**2
            projector = joined * joined + joined + joined * self.text.hidden + self.text.hidden
            return self.text.parameters + tower + projector + 2 * width
        tower += width * (2 + vision.side**2) + 4 * width
        wide = len(vision.feature_layers) * width + self.text.hidden
        projector = (wide + 2 * self.projector_bias) * self.text.hidden
        newline = self.text.hidden if self.architecture == "llava-next" else 0
        return self.text.parameters + tower + projector + newline


_CLIP_L = Vision(layers=24, hidden=1024, intermediate=4096, heads=16)
qwen_tower = functools.partial(Vision, image=0, merge=2, temporal=2, feature_layers=(-1,))
"""A tower as Qwen2-VL has it."""
_QWEN_TOWER = qwen_tower(
    layers=32,
    hidden=1280,
    intermediate=5120,
    heads=16,
    most_pixels=28 * 28 * 16384,  # as the published checkpoints' preprocessor_config.json says
)
_VICUNA_7B = Text(32, 4096, 11008, 32, 32, VICUNA_VOCABULARY)
_VICUNA_13B = Text(40, 5120, 13824, 40, 40, VICUNA_VOCABULARY)
_SMALL_CLIP = Vision(layers=4, hidden=256, intermediate=1024, heads=4)
_SMALL_QWEN_TOWER = qwen_tower(layers=4, hidden=256, intermediate=1024, heads=4)
_SMALL_TEXT = Text(16, 320, 864, 5, 5, 12288)

SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape(
            "tiny",
            "llava-next",
            _SMALL_TEXT,
            _SMALL_CLIP,
            NEXT_PINPOINTS,
            "2880 visual tokens on a model small enough for a CPU",
        ),
        Shape("tiny-llava", "llava", _SMALL_TEXT, _SMALL_CLIP, (), "576 visual tokens"),
        Shape(
            "tiny-qwen2-vl",
            "qwen2-vl",
            Text(16, 384, 1024, 6, 2, 8192, qkv_bias=True, positions=32768),
            _SMALL_QWEN_TOWER,
            (),
            "grouped heads, M-RoPE, dynamic resolution",
        ),
        Shape("llava-1.5-7b", "llava", _VICUNA_7B, _CLIP_L, (), "Vicuna-7B, 576 visual tokens"),
        Shape("llava-1.5-13b", "llava", _VICUNA_13B, _CLIP_L, (), "Vicuna-13B, 576 visual tokens"),
        Shape(
            "llava-next-7b",
            "llava-next",
            _VICUNA_7B,
            _CLIP_L,
            NEXT_PINPOINTS,
            "Vicuna-7B, 2880 visual tokens: the model of the paper's Table 7",
        ),
        Shape(
            "qwen2-vl-7b",
            "qwen2-vl",
            Text(28, 3584, 18944, 28, 4, 152064, qkv_bias=True, positions=32768),
            _QWEN_TOWER,
            (),
            "grouped heads, M-RoPE, dynamic resolution",
        ),
        Shape(
            "qwen2-vl-72b",
            "qwen2-vl",
            Text(80, 8192, 29568, 64, 8, 152064, qkv_bias=True, positions=32768),
            _QWEN_TOWER,
            (),
            "grouped heads, M-RoPE, dynamic resolution",
        ),
    )
}


def tile_grid(shape: Shape, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of tiles that LLaVA-NeXT cuts a picture into, besides the base tile.

    The layout that keeps most of the picture's pixels wins; among equals, the one that pads least.
    """

    def quality(layout: tuple[int, int]) -> tuple[int, int]:
        scale = min(layout[0] / height, layout[1] / width)
        covered = int(height * scale) * int(width * scale)
        useful = min(covered, height * width)
        return useful, -(layout[0] * layout[1] - useful)

    best = max(shape.pinpoints, key=quality)
    return best[0] // shape.vision.image, best[1] // shape.vision.image


def dynamic_size(shape: Shape, height: int, width: int) -> tuple[int, int]:
    """The size in pixels to which Qwen2-VL resizes a picture: whole tokens, bounded area. Raises
    ShapeError for a picture that it does not take."""
    if max(height, width) > LONGEST * min(height, width):
        raise ShapeError(
            f"{shape.name} takes no picture of {width}x{height} (width x height): the longer side "
            f"is at most {LONGEST} times the shorter one"
        )
    unit = shape.vision.patch * shape.vision.merge
    least, most = shape.vision.least_pixels, shape.vision.most_pixels
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
