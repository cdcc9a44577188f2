"""Qwen2-VL: a tower over any resolution, a 2x2 merger, a decoder with M-RoPE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...methods.contract.request import Request
from ...methods.engine.attention import Attention
from ...methods.engine.decoder import BlockRunner, Inputs
from ...reports.record.spec import Layout
from .model import Model


@dataclass(frozen=True)
class QwenBlock:
    """A block of Qwen2-VL's tower; see the TowerBlock protocol.

    ends: where each picture's patches end. rotary: cosine and sine of the patches.
    """

    layer: Any
    ends: Tensor | None
    rotary: tuple[Tensor, Tensor]

    def __call__(self, hidden: Tensor, tpprof: Attention, bias: Tensor | None = None) -> Tensor:
        output: Tensor = self.layer(
            hidden, cu_seqlens=self.ends, position_embeddings=self.rotary, tpprof=tpprof
        )
        return output

    def attend(self, hidden: Tensor, tpprof: Attention, bias: Tensor | None = None) -> Tensor:
        attended: Tensor = self.layer.attn(
            self.layer.norm1(hidden),
            cu_seqlens=self.ends,
            position_embeddings=self.rotary,
            tpprof=tpprof,
        )
        return hidden + attended

    def feed_forward(self, hidden: Tensor) -> Tensor:
        result: Tensor = hidden + self.layer.mlp(self.layer.norm2(hidden))
        return result


class Qwen2VL(Model):
    """One picture a sample; the visual tokens are its merged patches in raster order."""

    @property
    def image_token(self) -> int:
        return int(self.module.config.image_token_id)

    @property
    def image_text(self) -> str:
        return "<|vision_start|><|image_pad|><|vision_end|>"

    def encode(self, inputs: Inputs, tower: BlockRunner) -> Tensor:
        visual = self.module.model.visual
        hidden = visual.patch_embed(inputs["pixel_values"].to(self.dtype))
        rotary = visual.rotary_pos_emb(hidden, inputs.extras["vision_positions"])
        for index, layer in enumerate(visual.blocks):
            hidden = tower(index, QwenBlock(layer, inputs.sequence_ends, rotary), hidden)
        tower.leave(hidden)
        merged: Tensor = visual.merger(hidden)
        return merged.view(inputs.request.batch, -1, merged.shape[-1])

    def visual_tokens(self, pixels: dict[str, Tensor], layout: Layout) -> int:
        frames, rows, columns = pixels["image_grid_thw"][0].tolist()
        return int(frames * rows * columns // self.shape.vision.merge**2)

    def assemble(
        self, pixels: dict[str, Tensor], ids: Tensor, request: Request, layout: Layout
    ) -> Inputs:
        from transformers.vision_utils import get_vision_cu_seqlens, get_vision_position_ids

        grid = pixels["image_grid_thw"]
        kinds = (ids == self.image_token).int()
        positions, deltas = self.module.model.get_rope_index(ids, kinds, image_grid_thw=grid)
        merge = self.module.config.vision_config.spatial_merge_size
        return Inputs(
            {"input_ids": ids, "mm_token_type_ids": kinds, **pixels},
            request=request,
            positions=positions,
            next_position=request.length + int(deltas[0]),
            extras={"vision_positions": get_vision_position_ids(grid, merge)},
            sequence_ends=get_vision_cu_seqlens(grid),
        )

    def text_positions(self, request: Request) -> Tensor:
        return torch.arange(request.length).expand(3, request.batch, -1)
