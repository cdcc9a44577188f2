"""Qwen2.5-VL: Qwen2-VL with a tower that attends in windows, but in a few layers."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any

from ....methods.contract.request import Encoder, Request, Size
from ....reports.record.spec import Layout
from ..checkpoint.reader import MOST, Reader
from ..decoders.qwen2 import MICRO_QWEN2, SMALL_QWEN2, qwen2_text
from ..model import Model
from ..registry import register_architecture
from ..shapes import Shape, Text, Vision
from ..towers.qwen import QwenBlock, tower_options
from .qwen2_vl import (
    MOST_PIXELS,
    MOST_PUBLISHED,
    Qwen2VL,
    Qwen2VLModel,
    grid_of,
    layer_numbers,
    special_tokens,
    text_options,
)

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from ....methods.engine.decoder import BlockRunner, Inputs

WINDOW = 112
"""Pixels along one side of a window, of all published models."""
POSITIONS = 128000
WHOLE_LAYERS = (7, 15, 23, 31)
"""The layers of the published towers that attend to the whole picture."""
RATE = 2
"""Positions a second of a video, of all published models."""
SECONDS = 1.0
"""Between two patches of a video, each of two frames: 2 frames a second, as transformers samples
them."""
ABOUT = "windowed tower, M-RoPE, dynamic resolution"


@register_architecture
class Qwen25VL(Qwen2VL):
    """One picture of any resolution; the visual tokens are its merged patches in raster order.

    In the tower they stand window by window, and attend to their window alone but in a few layers.
    """

    name = "qwen2.5-vl"
    model_type = "qwen2_5_vl"
    class_name = "Qwen2_5_VLForConditionalGeneration"

    def shapes(self) -> tuple[Shape, ...]:
        small = self.windowed_tower(4, 256, 684, 4, (1, 3))
        return (
            self.shape(
                "tiny-qwen2.5-vl",
                dataclasses.replace(SMALL_QWEN2, positions=POSITIONS),
                small,
                ABOUT,
            ),
            self.shape(
                "qwen2.5-vl-3b",
                dataclasses.replace(
                    qwen2_text(36, 2048, 11008, 16, 2, 151936, positions=POSITIONS), tied=True
                ),
                self.published(3420),
                ABOUT,
            ),
            self.shape(
                "qwen2.5-vl-7b",
                qwen2_text(28, 3584, 18944, 28, 4, 152064, positions=POSITIONS),
                self.published(3420),
                ABOUT,
            ),
            self.shape(
                "qwen2.5-vl-32b",
                qwen2_text(64, 5120, 27648, 40, 8, 152064, positions=POSITIONS),
                self.published(3456),
                ABOUT,
            ),
            self.shape(
                "qwen2.5-vl-72b",
                qwen2_text(80, 8192, 29568, 64, 8, 152064, positions=POSITIONS),
                self.published(3456),
                ABOUT,
            ),
        )

    def micro(self) -> Shape:
        text = MICRO_QWEN2
        return self.shape("micro-qwen2.5-vl", text, self.windowed_tower(4, 48, 64, 3, (1, 3)))

    def published(self, intermediate: int) -> Vision:
        """The published tower; of the FFN's width there are two."""
        return self.windowed_tower(32, 1280, intermediate, 16, WHOLE_LAYERS, MOST_PUBLISHED)

    def windowed_tower(
        self,
        layers: int,
        hidden: int,
        intermediate: int,
        heads: int,
        whole_layers: tuple[int, ...],
        most_pixels: int = MOST_PIXELS,
        *,
        window: int = WINDOW,
        rate: int = RATE,
        **sizes: int,
    ) -> Vision:
        """A tower of this architecture. rate: positions a second of a video. sizes: patch, merge
        and temporal."""
        tower = self.tower(layers, hidden, intermediate, heads, most_pixels, **sizes)
        return dataclasses.replace(
            tower,
            gated=True,
            norm_vectors=1,
            window=window,
            whole_layers=whole_layers,
            frame_step=int(rate * SECONDS),
        )

    def config(self, shape: Shape) -> Any:
        from transformers import Qwen2_5_VLConfig

        vision = shape.vision
        return Qwen2_5_VLConfig(
            text_config=text_options(shape.text),
            vision_config={
                **tower_options(vision),
                "hidden_size": vision.hidden,
                "intermediate_size": vision.intermediate,
                "out_hidden_size": shape.text.hidden,
                "tokens_per_second": int(vision.frame_step / SECONDS),
                "window_size": vision.window,
                "fullatt_block_indexes": list(vision.whole_layers),
            },
            tie_word_embeddings=shape.text.tied,
            **special_tokens(shape.text),
        )

    def _tower_from(self, name: str, given: Any, text: Text) -> Vision:
        reader = Reader(name, "vision_config", given.vision_config)
        reader.require("in_channels", 3)
        reader.activation("hidden_act")
        reader.require("out_hidden_size", text.hidden)
        layers = reader.count("depth", MOST["layers"])
        patch = reader.count("patch_size", MOST["pixels"])
        merge = reader.count("spatial_merge_size", 64)
        return self.windowed_tower(
            layers,
            reader.count("hidden_size", MOST["width"]),
            reader.count("intermediate_size", MOST["width"]),
            reader.count("num_heads", MOST["heads"]),
            layer_numbers(reader, "fullatt_block_indexes", layers),
            rate=reader.count("tokens_per_second", MOST["width"]),
            window=reader.count("window_size", MOST["pixels"], least=patch * merge),
            patch=patch,
            merge=merge,
            temporal=reader.count("temporal_patch_size", 64),
        )

    def at_work(self, shape: Shape, size: Size, tiles: int = 1) -> Encoder:
        whole = super().at_work(shape, size, tiles)
        windows = windows_of(shape.vision, *size)
        return dataclasses.replace(whole, windows=windows, windowed=shape.vision.windowed)

    def adapter(self) -> type[Model]:
        return Qwen25VLModel


class Qwen25VLModel(Qwen2VLModel):
    """See `Qwen25VL`."""

    def encode(self, inputs: Inputs, tower: BlockRunner) -> Tensor:
        visual, windowed = self.module.model.visual, self.shape.vision.windowed
        hidden = self.patches(inputs)
        order = inputs.extras["window_order"]
        hidden = hidden.view(len(order), -1, hidden.shape[-1])[order].flatten(0, 1)
        rotary = visual.rotary_pos_emb(hidden, inputs.extras["vision_positions"])
        whole, windows = self.ends(inputs, "sequence_ends"), self.ends(inputs, "window_ends")
        for index, layer in enumerate(visual.blocks):
            ends, longest = windows if index in windowed else whole
            hidden = tower(index, QwenBlock(layer, ends, rotary, longest), hidden)
        tower.leave(hidden)
        merged: Tensor = visual.merger(hidden)[inputs.extras["raster_order"]]
        return merged.view(inputs.request.batch, -1, merged.shape[-1])

    def video_pixels(self, videos: list[list[Image.Image]]) -> dict[str, Tensor]:
        import torch

        seconds = torch.tensor([SECONDS] * len(videos))
        return {**super().video_pixels(videos), "second_per_grid_ts": seconds}

    def assemble(
        self, pixels: dict[str, Tensor], ids: Tensor, request: Request, layout: Layout
    ) -> Inputs:
        import torch
        from transformers.vision_utils import get_vision_window_index

        inputs = super().assemble(pixels, ids, request, layout)
        vision = self.shape.vision
        order, inputs.window_ends = get_vision_window_index(
            grid_of(pixels),
            spatial_merge_size=vision.merge,
            window_size=vision.window,
            patch_size=vision.patch,
        )
        if self.packs:
            inputs.extras["window_ends"] = inputs.window_ends
        raster = order.argsort()
        patches = torch.arange(vision.merge**2)
        positions = inputs.extras["vision_positions"].view(len(order), len(patches), -1)
        inputs.extras |= {
            "vision_positions": positions[order].flatten(0, 1),
            "window_order": order,
            "raster_order": raster,
        }
        assert request.encoder is not None
        first = raster[: request.encoder.patches // len(patches)]
        inputs.tower_order = (first[:, None] * len(patches) + patches).flatten()
        return inputs


def windows_of(vision: Vision, rows: int, columns: int) -> tuple[int, ...]:
    """Patches in each window of a picture of so many pixels, as they stand in the tower: row by row
    of windows, those at the right and lower edge perhaps smaller."""
    side = vision.window // vision.unit

    def cut(length: int) -> list[int]:
        return [min(side, length - start) for start in range(0, length, side)]

    heights, widths = cut(rows // vision.unit), cut(columns // vision.unit)
    return tuple(
        height * width * vision.merge**2 for height, width in itertools.product(heights, widths)
    )
