"""Qwen3-VL: features of several layers of the tower, added behind the first decoder layers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ....methods.contract.request import Request, Segment, Size, VisualSpan
from ....reports.record.spec import Layout
from ..checkpoint.reader import MOST, Reader
from ..checkpoint.rotary import require_mrope_section
from ..errors import ModelError
from ..model import Model
from ..registry import register_architecture
from ..shapes import Projector, Shape, ShapeError, Text, Vision
from ..towers.qwen import QwenBlock, bounded_size, tower_options
from .qwen2_vl import (
    Qwen2VL,
    Qwen2VLModel,
    grid_of,
    layer_numbers,
    special_tokens,
    text_options,
)

if TYPE_CHECKING:
    from torch import Tensor

    from ....methods.engine.decoder import BlockRunner, Inputs

LEAST_PUBLISHED, MOST_PUBLISHED = 256 * 256, 4096 * 4096
"""Pixels of a picture, as the published checkpoints' preprocessor_config.json says."""
VIDEO_PIXELS = (64 * 64, 4096 * 6144)
"""Of all frames of a video together, as their video_preprocessor_config.json says."""
RATE = 2
"""Frames a second, as transformers samples them."""
SIDE = 48
"""Learned positions along one side of the grid that is stretched over a picture."""
WORD = len(" seconds") - 1
"""Letters of a time that its tokenizer writes as one token; of the others each is one."""
ABOUT = "DeepStack, interleaved M-RoPE, dynamic resolution"


@register_architecture
class Qwen3VL(Qwen2VL):
    """One picture of any resolution; the visual tokens are its merged patches in raster order.

    DeepStack: what some layers of the tower give is merged as well, and added to the visual tokens
    behind the decoder's first layers, the first behind layer 0.
    """

    name = "qwen3-vl"
    model_type = "qwen3_vl"
    class_name = "Qwen3VLForConditionalGeneration"
    flat_config = False
    usual_video_pixels = (128 * 32 * 32, 768 * 32 * 32)

    def shapes(self) -> tuple[Shape, ...]:
        small = self.deep_tower(4, 256, 1024, 4, (1, 2), most_pixels=1024 * 1280)
        base = self.deep_tower(24, 1024, 4096, 16, (5, 11, 17), video_pixels=VIDEO_PIXELS)
        large = self.deep_tower(27, 1152, 4304, 16, (8, 16, 24), video_pixels=VIDEO_PIXELS)
        return (
            self.shape("tiny-qwen3-vl", _text(16, 384, 1024, 6, 2, 80, 8192), small, ABOUT),
            self.shape("qwen3-vl-2b", _text(28, 2048, 6144, 16, 8, tied=True), base, ABOUT),
            self.shape("qwen3-vl-4b", _text(36, 2560, 9728, 32, 8, tied=True), base, ABOUT),
            self.shape("qwen3-vl-8b", _text(36, 4096, 12288, 32, 8), large, ABOUT),
            self.shape("qwen3-vl-32b", _text(64, 5120, 25600, 64, 8), large, ABOUT),
        )

    def micro(self) -> Shape:
        tower = self.deep_tower(
            4,
            48,
            96,
            3,
            (0, 2, 3),
            least_pixels=56 * 56,
            side=6,
            patch=14,
            most_pixels=56 * 56 * 320,
        )
        return self.shape("micro-qwen3-vl", _text(8, 64, 112, 6, 2, 16, 512), tower)

    def deep_tower(
        self,
        layers: int,
        hidden: int,
        intermediate: int,
        heads: int,
        deepstack: tuple[int, ...],
        *,
        least_pixels: int = LEAST_PUBLISHED,
        most_pixels: int = MOST_PUBLISHED,
        video_pixels: tuple[int, int] | None = None,
        side: int = SIDE,
        patch: int = 16,
        **sizes: int,
    ) -> Vision:
        """A tower of this architecture. video_pixels: of a video as a whole, None for those of a
        picture. side: of its learned positions. sizes: merge, temporal."""
        tower = self.tower(layers, hidden, intermediate, heads, most_pixels, patch=patch, **sizes)
        return dataclasses.replace(
            tower,
            least_pixels=least_pixels,
            video_pixels=video_pixels or (least_pixels, most_pixels),
            inner_states=2,
            patch_bias=True,
            positions=side * side,
            deepstack=deepstack,
        )

    def shape(self, name: str, text: Text, vision: Vision, about: str = "") -> Shape:
        shape = super().shape(name, text, vision, about)
        joined = shape.projector.inputs
        deep = Projector(joined, joined, text.hidden, normed=joined)
        return dataclasses.replace(shape, deep_projector=deep if vision.deepstack else None)

    def config(self, shape: Shape) -> Any:
        from transformers import Qwen3VLConfig

        text, vision = shape.text, shape.vision
        return Qwen3VLConfig(
            text_config={
                **text_options(text),
                "head_dim": text.head_dim,
                "attention_bias": text.output_bias,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 5e6,
                    "mrope_section": mrope_sections(text.head_dim),
                    "mrope_interleaved": True,
                },
            },
            vision_config={
                **tower_options(vision),
                "hidden_size": vision.hidden,
                "intermediate_size": vision.intermediate,
                "out_hidden_size": text.hidden,
                "num_position_embeddings": vision.positions,
                "deepstack_visual_indexes": list(vision.deepstack),
            },
            tie_word_embeddings=text.tied,
            **special_tokens(text),
        )

    def shape_from(self, name: str, given: Any, text: Text) -> Shape:
        require_mrope_section(name, given.text_config, text.head_dim, interleaved=True)
        return self.shape(name, text, self._tower_from(name, given, text))

    def _tower_from(self, name: str, given: Any, text: Text) -> Vision:
        reader = Reader(name, "vision_config", given.vision_config)
        reader.require("in_channels", 3)
        reader.activation("hidden_act")
        reader.require("out_hidden_size", text.hidden)
        layers = reader.count("depth", MOST["layers"])
        places = reader.count("num_position_embeddings", MOST["width"])
        side = int(places**0.5)
        if side * side != places:
            reader.refuse(f"num_position_embeddings is {places}; known: the square of a number")
        deepstack = layer_numbers(reader, "deepstack_visual_indexes", layers)
        if len(deepstack) > text.layers:
            reader.refuse(
                f"deepstack_visual_indexes names {len(deepstack)} layers, and the decoder has "
                f"{text.layers}"
            )
        return self.deep_tower(
            layers,
            reader.count("hidden_size", MOST["width"]),
            reader.count("intermediate_size", MOST["width"]),
            reader.count("num_heads", MOST["heads"]),
            deepstack,
            side=side,
            patch=reader.count("patch_size", MOST["pixels"]),
            merge=reader.count("spatial_merge_size", 64),
            temporal=reader.count("temporal_patch_size", 64),
        )

    def video(self, shape: Shape, frames: int, size: Size) -> tuple[VisualSpan, ...]:
        """A span for the frames of each patch, its time before it as text."""
        (whole,) = super().video(shape, frames, size)
        return tuple(
            VisualSpan(2 + len(stamp(number, shape)) - WORD if number else 0, (segment,))
            for number, segment in enumerate(whole.segments)
        )

    def frame_size(self, shape: Shape, frames: int, size: Size) -> Size:
        """As transformers bounds the pixels of all frames together."""
        vision, (height, width) = shape.vision, size
        unit, (least, most) = vision.unit, vision.video_pixels
        if frames < vision.temporal:
            raise ShapeError(f"{shape.name} takes no video of fewer than {vision.temporal} frames")
        if min(size) < unit:
            scale = max(unit / height, unit / width)
            height, width = int(height * scale), int(width * scale)
        whole = bounded_size(shape, (height, width), 0, 1 << 62)  # refuses what is too narrow
        count = round(frames / vision.temporal) * vision.temporal
        pixels = count * whole[0] * whole[1]
        if least <= pixels <= most:
            return whole
        if pixels > most:
            shrink = math.sqrt(frames * height * width / most)
            return (
                max(unit, math.floor(height / shrink / unit) * unit),
                max(unit, math.floor(width / shrink / unit) * unit),
            )
        grow = math.sqrt(least / (frames * height * width))
        return (
            math.ceil(height * grow / unit) * unit,
            math.ceil(width * grow / unit) * unit,
        )

    def reach(self, shape: Shape, segments: tuple[Segment, ...]) -> int:
        """Every frame begins anew: its time is told, not numbered."""
        return self.positions(segments)

    def processor_options(self, shape: Shape) -> dict[str, Any]:
        half = [0.5, 0.5, 0.5]
        return {**super().processor_options(shape), "image_mean": half, "image_std": half}

    def adapter(self) -> type[Model]:
        return Qwen3VLModel


class Qwen3VLModel(Qwen2VLModel):
    """See `Qwen3VL`."""

    def encode(self, inputs: Inputs, tower: BlockRunner) -> Tensor:
        visual, batch = self.module.model.visual, inputs.request.batch
        hidden = self.patches(inputs) + self._learned(inputs)
        rotary = visual.rotary_pos_emb(hidden, inputs.extras["vision_positions"])
        chosen = self.shape.vision.deepstack
        ends, longest = self.ends(inputs, "sequence_ends")
        for index, layer in enumerate(visual.blocks):
            hidden = tower(index, QwenBlock(layer, ends, rotary, longest), hidden)
            if index in chosen:
                merged = visual.deepstack_merger_list[chosen.index(index)](hidden)
                merged = merged.view(batch, -1, merged.shape[-1])
                tower.add_behind(sorted(chosen).index(index), merged)
        tower.leave(hidden)
        merged = visual.merger(hidden)
        features: Tensor = merged.view(batch, -1, merged.shape[-1])
        return features

    def video_start(self, before: list[int]) -> list[int]:
        """The time of the first frames stands before the marker that opens them."""
        opening = int(self.module.config.vision_start_token_id)
        own = [*before[:-1]] if before[-1:] == [opening] else [*before]
        return [*own, *self._stamps([0])[0], opening]

    def video_text(self, request: Request) -> list[list[int]]:
        given = self.module.config
        closing, opening = int(given.vision_end_token_id), int(given.vision_start_token_id)
        texts, stamps = [], self._stamps(range(1, len(request.spans)))
        for number, (_, planned) in enumerate(request.breaks, 1):
            text = [closing, *stamps[number - 1], opening]
            if len(text) != planned:
                raise ModelError(
                    f"{self.name}: its tokenizer writes {stamp(number, self.shape)!r} in "
                    f"{len(text) - 2} tokens, and {planned - 2} are planned"
                )
            texts.append(text)
        return texts

    def _stamps(self, numbers: Sequence[int]) -> list[list[int]]:
        written = [stamp(number, self.shape) for number in numbers]
        if not written:
            return []
        ids: list[list[int]] = self.tokenizer(written, add_special_tokens=False).input_ids
        return ids

    def _learned(self, inputs: Inputs) -> Tensor:
        """Learned positions [patches, width], from four of the grid for each patch."""
        places, weights = inputs.extras["learned_places"], inputs.extras["learned_weights"]
        near = self.module.model.visual.pos_embed(places) * weights[:, :, None]
        learned: Tensor = near.sum(1).to(self.dtype)
        return learned

    def assemble(
        self, pixels: dict[str, Tensor], ids: Tensor, request: Request, layout: Layout
    ) -> Inputs:
        from transformers.vision_utils import get_vision_interpolation_indices_and_weights

        inputs = super().assemble(pixels, ids, request, layout)
        visual = self.module.model.visual
        places, weights = get_vision_interpolation_indices_and_weights(
            grid_of(pixels),
            num_grid_per_side=visual.num_grid_per_side,
            mode=visual.interpolation_mode,
            align_corners=visual.interpolation_align_corners,
            spatial_merge_size=self.shape.vision.merge,
        )
        inputs.extras |= {"learned_places": places, "learned_weights": weights}
        return inputs


def stamp(number: int, shape: Shape) -> str:
    """The time of the frames of a patch, in the middle between its first and its last."""
    temporal = shape.vision.temporal
    seconds = (number * temporal + (temporal - 1) / 2) / RATE
    return f"<{seconds:.1f} seconds>"


def mrope_sections(head_dim: int) -> list[int]:
    """Frequencies given to time, height and width, one after another in turn: three eighths, and
    what is left in halves, as 24, 20 and 20 of 64."""
    half = head_dim // 2
    side = (half - half * 3 // 8) // 2
    return [half - 2 * side, side, side]


def _text(
    layers: int,
    hidden: int,
    intermediate: int,
    heads: int,
    kv_heads: int,
    head_dim: int = 128,
    vocabulary: int = 151936,
    *,
    tied: bool = False,
) -> Text:
    return Text(
        layers,
        hidden,
        intermediate,
        heads,
        kv_heads,
        vocabulary,
        tied=tied,
        head_size=None if head_dim * heads == hidden else head_dim,
        qk_norm=2 * head_dim,
        positions=262144,
    )
