"""LLaVA-1.5 and LLaVA-NeXT: CLIP tower, two-layer projector, Llama decoder."""

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


class Llava(Model):
    """One tile a picture; the visual tokens are its patches in raster order."""

    @property
    def image_token(self) -> int:
        return int(self.module.config.image_token_index)

    def encode(self, inputs: Inputs, tower: BlockRunner) -> Tensor:
        vision = self.module.model.vision_tower
        pixels = inputs["pixel_values"]
        if pixels.dim() == 5:
            pixels = pixels.flatten(0, 1)
        hidden = vision.pre_layrnorm(vision.embeddings(pixels))
        wanted = self._feature_layers(len(vision.encoder.layers))
        features = {0: hidden} if 0 in wanted else {}
        for index, layer in enumerate(vision.encoder.layers):
            hidden = tower(index, ClipBlock(layer), hidden)
            if index + 1 in wanted:
                features[index + 1] = hidden
        patches = torch.cat([features[index][:, 1:] for index in wanted], -1)
        tower.leave(patches)
        projected: Tensor = self.module.model.multi_modal_projector(patches)
        return projected.reshape(inputs.request.batch, -1, projected.shape[-1])

    def visual_tokens(self, pixels: dict[str, Tensor], layout: Layout) -> int:
        values, patch = pixels["pixel_values"], self.shape.vision.patch
        tiles = values.shape[1] if values.dim() == 5 else 1
        return int(tiles * (values.shape[-2] // patch) * (values.shape[-1] // patch))

    def assemble(
        self, pixels: dict[str, Tensor], ids: Tensor, request: Request, layout: Layout
    ) -> Inputs:
        return Inputs(
            {"input_ids": ids, **pixels},
            request=request,
            positions=self.text_positions(request),
            next_position=request.length,
            order=self.order(pixels, request, layout),
        )

    def order(self, pixels: dict[str, Tensor], request: Request, layout: Layout) -> Tensor | None:
        """See Inputs.order; patches as they come need none."""
        return None

    def _feature_layers(self, depth: int) -> list[int]:
        chosen: Any = self.module.config.vision_feature_layer
        layers = [chosen] if isinstance(chosen, int) else list(chosen)
        return [layer % (depth + 1) for layer in layers]


class LlavaNext(Llava):
    """A base tile and the tiles of the picture at higher resolution.

    Layout `flat` puts the tiles in a row (the paper's 2880); `anyres` is the layout that
    transformers knows: tiles joined, padding cut away, a newline token behind every row.
    """

    @property
    def newline(self) -> Tensor | None:
        newline: Tensor = self.module.model.image_newline
        return newline

    def visual_tokens(self, pixels: dict[str, Tensor], layout: Layout) -> int:
        tokens = super().visual_tokens(pixels, layout)
        if layout == "flat":
            return tokens
        tiles = pixels["pixel_values"].shape[1]
        return len(self._packed(pixels, tiles, tokens // tiles))

    def order(self, pixels: dict[str, Tensor], request: Request, layout: Layout) -> Tensor | None:
        if layout == "flat":
            return None
        encoder = request.encoder
        assert encoder is not None
        return self._packed(pixels, encoder.tiles, encoder.patches)

    def _packed(self, pixels: dict[str, Tensor], tiles: int, patches: int) -> Tensor:
        """Where transformers puts the patches of the first picture; see Inputs.order."""
        places = torch.arange(tiles * patches, dtype=torch.float64)
        packed, _ = self.module.model.pack_image_features(
            [places.view(tiles, patches, 1)],
            pixels["image_sizes"][:1],
            vision_feature_select_strategy="default",
            image_newline=torch.tensor([float(tiles * patches)], dtype=torch.float64),
        )
        order: Tensor = packed[0][:, 0].long()
        return order
