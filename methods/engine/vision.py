"""Vision and embedding: from pixels to the sequence that enters the decoder."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..contract.arrangement import Arrangement, Spread, arranged
from ..contract.containment import where_defined
from ..contract.plan import Stage, Tower
from ..contract.plan_checks import undroppable
from ..contract.request import Encoder
from ..contract.view import Tag, View
from .attention import Reading
from .context import Context, TokenSequence, arange, kept_states, move_riders, trace_origin
from .decoder import Resample, TowerBlock
from .ledger import RowsRead, rows_beside, tower_map
from .verify import DecisionError, decide, deciding


class VisionTower:
    """Runs the blocks of the vision tower and lets the method act in and behind them.

    original: int64 [tiles, n], the patch that each token came from, -1 for a merged one; None until
    a decision was made. sizes: float32 [tiles, n], as `Keep.sizes`. added: as in `TokenSequence`.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.original: Tensor | None = None
        self.sizes: Tensor | None = None
        self.added: dict[int, Tensor] = {}

    def __call__(self, layer: int, block: TowerBlock, hidden: Tensor) -> Tensor:
        context, ledger = self.context, self.context.ledger
        stages = [stage for stage in context.plan.tower if stage.layer == layer]
        inside = [stage for stage in stages if _inside(stage)]
        behind = [stage for stage in stages if not _inside(stage)]
        ledger.encoder_tokens.append(self._per_tile(hidden))
        reading = self._prepare(layer, self._per_tile(hidden))
        bias = self._bias(hidden)
        if inside:
            hidden = block.attend(hidden, context.attention, bias)
            self._lap("tower", layer)
            hidden = self._act_all(inside, hidden, reading)
            if self._per_tile(hidden) != ledger.encoder_tokens[-1]:
                ledger.encoder_inside[layer] = self._per_tile(hidden)
            hidden = block.feed_forward(hidden)
        else:
            hidden = block(hidden, context.attention, bias)
        if behind:
            self._lap("tower", layer)
            hidden = self._act_all(behind, hidden, reading)
        return hidden

    def add_behind(self, layer: int, features: Tensor) -> None:
        """Keep what is added to the visual tokens behind a decoder layer."""
        self.added[layer] = features

    def leave(self, hidden: Tensor) -> None:
        """Count what the projector is given of each tile."""
        self.context.ledger.projector = self._per_tile(hidden)

    @property
    def _encoder(self) -> Encoder:
        encoder = self.context.inputs.request.encoder
        assert encoder is not None
        return encoder

    @property
    def _has_cls(self) -> bool:
        return self._encoder.has_cls

    def _lap(self, part: str, layer: int) -> None:
        self.context.lap("vision", part, layer)

    def _prepare(self, layer: int, per_tile: int) -> Reading | None:
        """Say how layer `layer` attends, and what to read of it."""
        context, ledger = self.context, self.context.ledger
        stage = context.plan.tower_readers.get(layer)
        use_map, reading = tower_map(context.plan, context.policy, layer), None
        if stage is not None:
            reading = self._reading(stage, per_tile)
            beside = rows_beside(stage, (reading.start, reading.stop), has_map=use_map)
            if beside:
                ledger.encoder_rows[layer] = RowsRead(beside.rows, per_tile)
        if use_map:
            ledger.encoder_maps.append(layer)

        def lap(part: str) -> None:
            self._lap("tower" if part == "layer" else part, layer)

        encoder, batch = self._encoder, context.inputs.request.batch
        alone = (encoder.lengths(layer) or (per_tile,)) * (batch * encoder.tiles)
        context.set_attention(use_map=use_map, reading=reading, lap=lap, lengths=alone)
        return reading

    def _reading(self, stage: Stage, per_tile: int) -> Reading:
        rows = stage.rows
        columns = slice(int(self._has_cls), None)
        reading = Reading(0, 0, columns, causal=False, with_keys=stage.keys is not None)
        reading.lengths = self._encoder.lengths(stage.layer)
        if rows is not None:
            reading.start = 0 if rows.query == "cls" else int(self._has_cls)
            reading.stop = 1 if rows.query == "cls" else per_tile
            reading.mean_rows = rows.query == "all"
            reading.each_head, reading.softmax = rows.heads == "each", rows.softmax
        return reading

    def _bias(self, hidden: Tensor) -> Tensor | None:
        """What proportional attention adds: the logarithm of each size [tiles, 1, 1, keys]."""
        if not self.context.plan.proportional or self.sizes is None:
            return None
        own = self.sizes.new_ones(self.sizes.shape[0], int(self._has_cls))
        bias = torch.cat([own, self.sizes], 1).log()[:, None, None]
        return bias.to(hidden.dtype)

    def _per_tile(self, hidden: Tensor) -> int:
        if hidden.dim() == 3:
            return hidden.shape[1]
        request = self.context.inputs.request
        return hidden.shape[0] // (
            request.batch * (request.encoder.tiles if request.encoder else 1)
        )

    def _act_all(self, stages: list[Stage], hidden: Tensor, reading: Reading | None) -> Tensor:
        for stage in stages:
            hidden = self._act(stage, hidden, reading)
            self._lap("select", stage.layer)
        return hidden

    def _act(self, stage: Stage, hidden: Tensor, reading: Reading | None) -> Tensor:
        context, request = self.context, self.context.inputs.request
        encoder = self._encoder
        number = request.batch * encoder.tiles
        tiles = hidden if hidden.dim() == 3 else hidden.view(number, -1, hidden.shape[-1])
        places = self._arrangement(tiles)
        before = self.original
        if before is None:
            before = arange(places.count, tiles).expand(tiles.shape[0], -1)
        view = View(
            site=stage.site,
            request=request,
            hidden=tiles,
            arrangement=places,
            original=before,
            notes=context.notes,
            norm=context.decoder.norm,
            sizes=self.sizes,
            rows_read=self._rows(reading.values) if reading and stage.rows else None,
            keys_read=_by_tile(reading.keys, tiles.shape[0]) if reading and stage.keys else None,
            published=context.published,
        )
        keep = decide(context, view, stage)
        if keep is None:
            return hidden
        dropped = keep.index.shape[1] != places.count
        changed = dropped or keep.merges is not None
        if changed and (fault := undroppable(encoder, stage.layer)):
            raise DecisionError(f"{fault} ({where_defined(deciding(context.method, stage))})")
        if changed:
            self.original = trace_origin(before, keep)
        self.sizes = move_riders(context.notes, self.sizes, keep, places.count)
        # Where the tower has an order of its own, none of its tokens can go.
        left = places.joined(tiles, kept_states(places.visual(tiles), keep), places)
        return left if hidden.dim() == 3 else left.flatten(0, 1)

    def _arrangement(self, tiles: Tensor) -> Arrangement:
        """Where the patches stand in tiles [N, n, d], in the order of the visual tokens."""
        start, order = int(self._has_cls), self.context.inputs.tower_order
        whole = Arrangement(start, tiles.shape[1])
        if order is None:
            return whole
        places = order.expand(tiles.shape[0], -1)
        return replace(whole, spread=Spread(places, places[:, :0], torch.zeros_like(places)))

    def _rows(self, values: Tensor | None) -> Tensor | None:
        """Rows [N, ..., n] in the order of the visual tokens."""
        order = self.context.inputs.tower_order
        return values if values is None or order is None else values[..., order]

    def lay_out(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Lay out projected patches [B, n, d] as visual tokens; returns them and their origins."""
        inputs, notes, newline = (
            self.context.inputs,
            self.context.notes,
            self.context.decoder.newline,
        )
        batch = features.shape[0]
        for name, tag in notes.tags.items():
            notes.tags[name] = Tag(_joined(tag.values, batch), tag.newline)
        if inputs.resample is not None:
            features = inputs.resample(features)
            for name, tag in notes.tags.items():
                values = _resampled(name, tag.values, inputs.resample)
                notes.tags[name] = Tag(values, tag.newline)
        count = features.shape[1]
        if inputs.order is not None:
            assert newline is not None
            end = newline.to(features.dtype).expand(batch, 1, -1)
            features = torch.cat([features, end], 1)[:, inputs.order]
            for name, tag in notes.tags.items():
                ending = torch.full_like(tag.values[:, :1], tag.newline)
                values = torch.cat([tag.values, ending], 1)[:, inputs.order]
                notes.tags[name] = Tag(values, tag.newline)
            count = features.shape[1]
        if self.original is None:
            return features, arange(count, features).expand(batch, -1)
        encoder = inputs.request.encoder
        assert encoder is not None
        tiles = arange(encoder.tiles, features)[:, None] * encoder.patches
        origins = self.original.view(batch, encoder.tiles, -1)
        return features, torch.where(origins < 0, origins, origins + tiles).flatten(1)


def _inside(stage: Stage) -> bool:
    return isinstance(stage.site, Tower) and stage.site.inside


def _joined(values: Tensor, batch: int) -> Tensor:
    """Values [tiles, n] or [tiles, n, d] of a tower's patches by sample: [B, tiles * n, ...]."""
    return values.reshape(batch, -1, *values.shape[2:])


def _resampled(name: str, values: Tensor, resample: Resample) -> Tensor:
    """A tag [B, n] or [B, n, d] as the projected patches are resampled."""
    if not values.is_floating_point():
        raise DecisionError(
            f"the tag {name!r} holds {values.dtype}, and this model interpolates patches to visual "
            "tokens: only floating-point numbers can be"
        )
    return resample(values) if values.dim() == 3 else resample(values[..., None])[..., 0]


def _by_tile(keys: Tensor | None, tiles: int) -> Tensor | None:
    """Keys [N, heads, tokens, head_dim] of the pictures of a tower that holds them in one row."""
    if keys is None or keys.shape[0] == tiles:
        return keys
    _, heads, tokens, width = keys.shape
    return keys.view(heads, tiles, tokens // tiles, width).transpose(0, 1)


def embed(context: Context) -> TokenSequence:
    """Vision, then the embedded sequence with the visual tokens in place, pruned as the method
    decides before the decoder."""
    decoder, inputs, request = context.decoder, context.inputs, context.inputs.request
    tower, sizes = VisionTower(context), None
    if "inputs_embeds" in inputs:
        hidden = inputs["inputs_embeds"]
        arrangement = arranged(request, hidden.shape[0], hidden.device)
        original = arange(request.visual, hidden).expand(hidden.shape[0], -1)
        context.lap("vision", "tower")
    else:
        features, original = tower.lay_out(decoder.encode(inputs, tower))
        if tower.sizes is not None:
            sizes = tower.sizes.reshape(features.shape[0], -1)
        context.lap("vision", "tower")
        arrangement, hidden = _placed(context, features)
    context.ledger.sequence = hidden.shape[1]
    cos, sin = decoder.rotary(hidden, _initial_positions(context, arrangement.count))
    context.lap("embed", "embed")
    return TokenSequence(hidden, cos, sin, arrangement, original, sizes, tower.added)


def _placed(context: Context, features: Tensor) -> tuple[Arrangement, Tensor]:
    """The embedded prompt with `features` [B, n, d] in the place of its pictures."""
    decoder, request, ids = context.decoder, context.inputs.request, context.inputs["input_ids"]
    whole = arranged(request, ids.shape[0], ids.device)
    if whole.spread is not None:
        texts = decoder.embed(ids.gather(1, whole.spread.texts))
        return whole, whole.woven(texts, features.to(texts.dtype))
    before = decoder.embed(ids[:, : whole.start])
    after = decoder.embed(ids[:, whole.stop :])
    hidden = torch.cat([before, features.to(before.dtype), after], 1)
    return Arrangement(whole.start, whole.start + features.shape[1]), hidden


def _initial_positions(context: Context, visual: int) -> Tensor:
    """Positions of the sequence; compact from the start if the tower merged tokens."""
    inputs = context.inputs
    positions, request = inputs.positions, inputs.request
    return (
        positions
        if visual == request.visual
        else positions[..., : request.length - (request.visual - visual)]
    )
