"""Vision and embedding: from pixels to the sequence that enters the decoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..contract.containment import where_defined
from ..contract.plan import EncoderStage
from ..contract.plan_checks import undroppable
from ..contract.view import EncoderView
from .attention import RowsWanted
from .context import Context, TokenSequence, arange, kept_states, trace_origin
from .ledger import RowsRead
from .verify import DecisionError, encode


class VisionTower:
    """Runs the blocks of the vision tower and applies the method's stages to their outputs."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.original: Tensor | None = None

    def __call__(self, layer: int, block: Callable[..., Tensor], hidden: Tensor) -> Tensor:
        context, ledger = self.context, self.context.ledger
        stages = [stage for stage in context.plan.encoder_stages if stage.layer == layer]
        rows = next((stage.rows for stage in stages if stage.rows), None)
        per_tile = self._per_tile(hidden)
        ledger.encoder_tokens.append(per_tile)
        reading = None
        if rows:
            reading = (
                RowsWanted(0, 1, slice(1, None), causal=False)
                if rows == "cls"
                else RowsWanted(0, per_tile, slice(None), causal=False, mean_rows=True)
            )
            if context.policy == "rows":
                ledger.encoder_rows[layer] = RowsRead(reading.stop, per_tile)
            else:
                ledger.encoder_maps.append(layer)

        def lap(part: str) -> None:
            context.lap("vision", "tower" if part == "layer" else part, layer)

        use_map = rows is not None and context.policy != "rows"
        context.set_attention(use_map=use_map, reading=reading, lap=lap)
        hidden = block(hidden, tpprof=context.attention)
        if stages:
            lap("tower")
        for stage in stages:
            hidden = self._act(stage, hidden, reading)
            lap("select")
        return hidden

    def _per_tile(self, hidden: Tensor) -> int:
        if hidden.dim() == 3:
            return hidden.shape[1]
        return hidden.shape[0] // self.context.inputs.request.batch

    def _act(self, stage: EncoderStage, hidden: Tensor, reading: RowsWanted | None) -> Tensor:
        context, request = self.context, self.context.inputs.request
        encoder = request.encoder
        assert encoder is not None
        extra = int(encoder.has_cls)
        tiles = hidden if hidden.dim() == 3 else hidden.view(request.batch, -1, hidden.shape[-1])
        patches = tiles[:, extra:]
        view = EncoderView(
            layer=stage.layer,
            request=request,
            hidden=patches,
            scores=reading.values if reading else None,
            published=context.published,
            notes=context.notes,
        )
        keep = encode(context.method, view, stage, verify=context.verify)
        known = keep.flops if keep else None
        context.ledger.encoder_select.append(stage.flops if known is None else known)
        if keep is None:
            return hidden
        dropped = keep.index.shape[1] != patches.shape[1]
        if dropped and (fault := undroppable(encoder, stage.layer)):
            raise DecisionError(f"{fault} ({where_defined(context.method.encode)})")
        before = self.original
        if before is None:
            before = arange(patches.shape[1], patches).expand(patches.shape[0], -1)
        self.original = trace_origin(before, keep)
        left = torch.cat([tiles[:, :extra], kept_states(patches, keep)], 1)
        return left if hidden.dim() == 3 else left.flatten(0, 1)

    def lay_out(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Lay out projected patches [B, n, d] as visual tokens; returns them and their origins."""
        inputs, notes, newline = (
            self.context.inputs,
            self.context.notes,
            self.context.decoder.newline,
        )
        batch, count = features.shape[:2]
        notes.marks = {name: flags.reshape(batch, -1) for name, flags in notes.marks.items()}
        if inputs.order is not None:
            assert newline is not None
            end = newline.to(features.dtype).expand(batch, 1, -1)
            features = torch.cat([features, end], 1)[:, inputs.order]
            none = torch.zeros(batch, 1, dtype=torch.bool, device=features.device)
            notes.marks = {
                name: torch.cat([flags, none], 1)[:, inputs.order]
                for name, flags in notes.marks.items()
            }
            count = features.shape[1]
        if self.original is None:
            return features, arange(count, features).expand(batch, -1)
        encoder = inputs.request.encoder
        assert encoder is not None
        tiles = arange(encoder.tiles, features)[:, None] * encoder.patches
        origins = self.original.view(batch, encoder.tiles, -1)
        return features, torch.where(origins < 0, origins, origins + tiles).flatten(1)


def embed(context: Context) -> TokenSequence:
    """Vision, then the embedded sequence with the visual tokens in place."""
    decoder, inputs, request = context.decoder, context.inputs, context.inputs.request
    tower = VisionTower(context)
    if "inputs_embeds" in inputs:
        hidden = inputs["inputs_embeds"]
        visual = request.visual
        original = arange(visual, hidden).expand(hidden.shape[0], -1)
        context.lap("vision", "tower")
    else:
        features, original = tower.lay_out(decoder.encode(inputs, tower))
        context.lap("vision", "tower")
        ids, visual = inputs["input_ids"], features.shape[1]
        before = decoder.embed(ids[:, : request.before])
        after = decoder.embed(ids[:, request.before + request.visual :])
        hidden = torch.cat([before, features.to(before.dtype), after], 1)
    cos, sin = decoder.rotary(hidden, _initial_positions(context, visual))
    context.lap("embed", "embed")
    return TokenSequence(hidden, cos, sin, request.before, request.before + visual, original)


def _initial_positions(context: Context, visual: int) -> Tensor:
    """Positions of the sequence; compact from the start if the tower merged tokens."""
    inputs = context.inputs
    positions, request = inputs.positions, inputs.request
    return (
        positions
        if visual == request.visual
        else positions[..., : request.length - (request.visual - visual)]
    )
