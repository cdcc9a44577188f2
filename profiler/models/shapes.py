"""Model shapes: the numbers that FLOPs, KV bytes and parameters follow from. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

Architecture = Literal["llava", "llava-next", "qwen2-vl"]

NEXT_PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
VICUNA_VOCABULARY = 32064  # 32000 and the placeholders that the converted checkpoints add


@dataclass(frozen=True)
class Text:
    """The decoder: layers of width `hidden`, gated FFN of width `intermediate`, grouped heads.

    `tied`: the head shares the weights of the embedding.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    qkv_bias: bool = False
    tied: bool = False

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def parameters(self) -> int:
        """Weights of embedding, layers, norms and head."""
        kv = self.kv_heads * self.head_dim
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * kv
        bias = self.hidden + 2 * kv if self.qkv_bias else 0
        layer = attention + bias + 3 * self.hidden * self.intermediate + 2 * self.hidden
        embeddings = (1 if self.tied else 2) * self.vocabulary * self.hidden
        return self.layers * layer + self.hidden + embeddings


@dataclass(frozen=True)
class Vision:
    """The vision tower: `layers` of width `hidden` over `patch` x `patch` pixels.

    `image`: side in pixels of the square tile that CLIP takes (LLaVA); ignored by Qwen2-VL, which
    takes any multiple of `patch * merge` and joins `merge` x `merge` patches into one token.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    patch: int = 14
    image: int = 336
    merge: int = 1
    temporal: int = 1

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
    """An architecture with its numbers. `pinpoints`: tile layouts of LLaVA-NeXT, in pixels."""

    name: str
    architecture: Architecture
    text: Text
    vision: Vision
    pinpoints: tuple[tuple[int, int], ...] = ()
    about: str = ""

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
        projector = (width + self.text.hidden + 2) * self.text.hidden
        newline = self.text.hidden if self.architecture == "llava-next" else 0
        return self.text.parameters + tower + projector + newline


_CLIP_L = Vision(layers=24, hidden=1024, intermediate=4096, heads=16)
_QWEN_TOWER = Vision(
    layers=32, hidden=1280, intermediate=5120, heads=16, merge=2, temporal=2, image=0
)
_VICUNA_7B = Text(32, 4096, 11008, 32, 32, VICUNA_VOCABULARY)
_VICUNA_13B = Text(40, 5120, 13824, 40, 40, VICUNA_VOCABULARY)
_SMALL_CLIP = Vision(layers=4, hidden=256, intermediate=1024, heads=4)
_SMALL_QWEN_TOWER = Vision(
    layers=4, hidden=256, intermediate=1024, heads=4, merge=2, temporal=2, image=0
)
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
            Text(16, 384, 1024, 6, 2, 8192, qkv_bias=True),
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
            Text(28, 3584, 18944, 28, 4, 152064, qkv_bias=True),
            _QWEN_TOWER,
            (),
            "grouped heads, M-RoPE, dynamic resolution",
        ),
        Shape(
            "qwen2-vl-72b",
            "qwen2-vl",
            Text(80, 8192, 29568, 64, 8, 152064, qkv_bias=True),
            _QWEN_TOWER,
            (),
            "grouped heads, M-RoPE, dynamic resolution",
        ),
    )
}


def mrope_section(head_dim: int) -> list[int]:
    """Frequencies given to time, height and width: a quarter, and three eighths twice."""
    quarter = head_dim // 8
    side = (head_dim // 2 - quarter) // 2
    return [head_dim // 2 - 2 * side, side, side]


def config(shape: Shape) -> Any:
    """The transformers config of `shape`."""
    return _qwen_config(shape) if shape.architecture == "qwen2-vl" else _llava_config(shape)


def _llava_config(shape: Shape) -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaNextConfig

    text, vision = shape.text, shape.vision
    options: dict[str, Any] = {
        "text_config": LlamaConfig(
            vocab_size=text.vocabulary,
            hidden_size=text.hidden,
            intermediate_size=text.intermediate,
            num_hidden_layers=text.layers,
            num_attention_heads=text.heads,
            num_key_value_heads=text.kv_heads,
            max_position_embeddings=4096,
            rms_norm_eps=1e-5,
        ),
        "vision_config": CLIPVisionConfig(
            hidden_size=vision.hidden,
            intermediate_size=vision.intermediate,
            num_hidden_layers=vision.layers,
            num_attention_heads=vision.heads,
            image_size=vision.image,
            patch_size=vision.patch,
        ),
        "image_token_index": min(32000, text.vocabulary - 1),
        "image_seq_length": vision.side**2,
    }
    if shape.architecture == "llava":
        return LlavaConfig(**options)
    pinpoints = [list(size) for size in shape.pinpoints]
    return LlavaNextConfig(image_grid_pinpoints=pinpoints, **options)


def _qwen_config(shape: Shape) -> Any:
    from transformers import Qwen2VLConfig

    text, vision = shape.text, shape.vision
    special = text.vocabulary - 1
    published = text.vocabulary > 151656
    return Qwen2VLConfig(
        text_config={
            "vocab_size": text.vocabulary,
            "hidden_size": text.hidden,
            "intermediate_size": text.intermediate,
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "num_key_value_heads": text.kv_heads,
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6,
            "bos_token_id": 151643 if published else 1,
            "eos_token_id": 151645 if published else 2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": mrope_section(text.head_dim),
            },
        },
        vision_config={
            "depth": vision.layers,
            "embed_dim": vision.hidden,
            "hidden_size": text.hidden,
            "mlp_ratio": vision.intermediate // vision.hidden,
            "num_heads": vision.heads,
            "patch_size": vision.patch,
            "spatial_merge_size": vision.merge,
            "temporal_patch_size": vision.temporal,
        },
        image_token_id=151655 if published else special,
        video_token_id=151656 if published else special - 1,
        vision_start_token_id=151652 if published else special - 2,
        vision_end_token_id=151653 if published else special - 3,
    )


def from_config(name: str, architecture: Architecture, given: Any) -> Shape:
    """The shape that a transformers config describes."""
    text, vision = given.text_config, given.vision_config
    decoder = Text(
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        vocabulary=text.vocab_size,
        qkv_bias=architecture == "qwen2-vl",
        tied=bool(given.tie_word_embeddings),
    )
    if architecture == "qwen2-vl":
        tower = Vision(
            layers=vision.depth,
            hidden=vision.embed_dim,
            intermediate=int(vision.embed_dim * vision.mlp_ratio),
            heads=vision.num_heads,
            patch=vision.patch_size,
            image=0,
            merge=vision.spatial_merge_size,
            temporal=vision.temporal_patch_size,
        )
        return Shape(name, architecture, decoder, tower)
    tower = Vision(
        layers=vision.num_hidden_layers,
        hidden=vision.hidden_size,
        intermediate=vision.intermediate_size,
        heads=vision.num_attention_heads,
        patch=vision.patch_size,
        image=vision.image_size,
    )
    pinpoints = tuple(
        (size[0], size[1]) for size in (getattr(given, "image_grid_pinpoints", None) or ())
    )
    return Shape(name, architecture, decoder, tower, pinpoints)


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
    """The size in pixels to which Qwen2-VL resizes a picture: whole tokens, bounded area."""
    unit = shape.vision.patch * shape.vision.merge
    least, most = 56 * 56, 28 * 28 * 1280
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
