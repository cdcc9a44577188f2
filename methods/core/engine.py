"""The engine: vision, prefill and decode over the model's own layers, pruned as a method decides.

It owns masks (none where causality suffices), positions, the KV cache per layer, gathers, merges
and the ledger. It calls the transformers layer modules and copies none of their code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from . import ledger as book
from .attention import Attention, Reading, in_force
from .decoder import Decoder, Inputs
from .ledger import Ledger, Policy, RowsRead
from .method import Keep, Method
from .plan import EncoderStage, Plan, Stage
from .view import EncoderView, Notes, View


class Lap(Protocol):
    """Told after each part of a request: phase, part of the phase, layer or decode step."""

    def __call__(self, phase: str, part: str, index: int | None = None) -> None: ...


@dataclass
class KVBytes:
    """Bytes of keys and values in each decoder layer's cache tensors, whole batch."""

    prefill: list[int]
    decode: list[int]


@dataclass
class Trace:
    """What one request gave.

    logits: [B, vocabulary] at the last prefill position. step_logits: [B, new_tokens - 1,
    vocabulary], one per decode step. tokens: int64 [B, new_tokens], greedy.
    visual_per_layer: visual tokens entering each decoder layer. kept: per decoder layer, int64
    [B, n], indices into the original visual tokens in their order in the sequence, -1 for a
    merged one. kv_bytes: per layer, after prefill and after decode. ledger: all counts that FLOPs
    follow from. solved: knobs that were solved to meet the budget.
    """

    logits: Tensor
    step_logits: Tensor
    tokens: Tensor
    visual_per_layer: list[int]
    kept: list[Tensor]
    kv_bytes: KVBytes
    ledger: Ledger
    solved: dict[str, float]


@torch.no_grad()
def run(
    decoder: Decoder,
    inputs: Inputs,
    method: Method,
    *,
    attention: Policy = "rows",
    new_tokens: int | None = None,
    solved: dict[str, float] | None = None,
    lap: Lap | None = None,
) -> Trace:
    """Run one request with `method` and return its trace.

    `attention` says how scoring layers are computed (rows, maps, published). `solved` carries
    solved knobs from the first request of a series to the next. `lap` is told as parts end.
    Raises BudgetError where the method cannot meet its budget on this request.
    """
    request = dataclasses.replace(
        inputs.request, new_tokens=inputs.request.new_tokens if new_tokens is None else new_tokens
    )
    plan = method.plan(request)
    notes = Notes(solved={} if solved is None else solved)
    context = _Context(decoder, inputs, method, plan, attention, notes, lap or _no_lap)
    with in_force(decoder.text_config, decoder.vision_config):
        sequence = _embed(context)
        prefill = _Prefill(context, sequence)
        hidden = prefill.run()
        logits = decoder.head(hidden[:, -1:])[:, 0]
        tokens = [logits.argmax(-1, keepdim=True)]
        context.lap("head", "head")
        kv_prefill = prefill.cache_bytes()
        step_logits = _decode(context, prefill.cache, tokens, request.new_tokens)
    return Trace(
        logits=logits,
        step_logits=torch.stack(step_logits, 1) if step_logits else logits[:, None][:, :0],
        tokens=torch.cat(tokens, 1),
        visual_per_layer=context.ledger.visual,
        kept=prefill.kept,
        kv_bytes=KVBytes(prefill=kv_prefill, decode=prefill.cache_bytes()),
        ledger=context.ledger,
        solved=notes.solved,
    )


def _no_lap(phase: str, part: str, index: int | None = None) -> None:
    return None


@dataclass
class _Context:
    decoder: Decoder
    inputs: Inputs
    method: Method
    plan: Plan
    policy: Policy
    notes: Notes
    lap: Lap
    ledger: Ledger = field(default_factory=Ledger)
    attention: Attention = field(init=False)

    def __post_init__(self) -> None:
        self.attention = Attention(self.decoder.backend)

    @property
    def published(self) -> bool:
        return self.policy == "published"

    def set_attention(self, *, use_map: bool, reading: Reading | None, lap: Any = None) -> None:
        released = self.plan.published
        self.attention.use_map = use_map
        self.attention.host_mask = bool(self.published and released and released.host_mask)
        self.attention.reading = reading
        self.attention.lap = lap


@dataclass
class _Sequence:
    """The tokens on their way through the decoder: [B, S, ...], visual ones at start:stop."""

    hidden: Tensor
    cos: Tensor
    sin: Tensor
    start: int
    stop: int
    original: Tensor


# --- vision and embedding -------------------------------------------------------------------


class _Tower:
    """Runs the blocks of the vision tower and applies the method's stages to their outputs."""

    def __init__(self, context: _Context) -> None:
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
                Reading(0, 1, slice(1, None), causal=False)
                if rows == "cls"
                else Reading(0, per_tile, slice(None), causal=False, mean_rows=True)
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

    def _act(self, stage: EncoderStage, hidden: Tensor, reading: Reading | None) -> Tensor:
        context, request = self.context, self.context.inputs.request
        encoder = request.encoder
        assert encoder is not None
        extra = int(encoder.has_cls)
        patches = hidden[:, extra:] if hidden.dim() == 3 else hidden.unflatten(0, (request.batch, -1))
        view = EncoderView(
            layer=stage.layer,
            request=request,
            hidden=patches,
            scores=reading.values if reading else None,
            published=context.published,
            notes=context.notes,
        )
        keep = context.method.encode(view, stage)
        if keep is None:
            return hidden
        before = self.original
        if before is None:
            before = _arange(patches.shape[1], patches).expand(patches.shape[0], -1)
        self.original = _trace_origin(before, keep)
        return torch.cat([hidden[:, :extra], _kept_states(patches, keep)], 1)

    def place(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Lay out projected patches [B, n, d] as visual tokens; returns them and their origins."""
        inputs, notes, newline = self.context.inputs, self.context.notes, self.context.decoder.newline
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
            return features, _arange(count, features).expand(batch, -1)
        encoder = inputs.request.encoder
        assert encoder is not None
        tiles = _arange(encoder.tiles, features)[:, None] * encoder.patches
        origins = self.original.view(batch, encoder.tiles, -1)
        return features, torch.where(origins < 0, origins, origins + tiles).flatten(1)


def _embed(context: _Context) -> _Sequence:
    """Vision, then the embedded sequence with the visual tokens in place."""
    decoder, inputs, request = context.decoder, context.inputs, context.inputs.request
    tower = _Tower(context)
    if "inputs_embeds" in inputs:
        hidden = inputs["inputs_embeds"]
        visual = request.visual
        original = _arange(visual, hidden).expand(hidden.shape[0], -1)
        context.lap("vision", "tower")
    else:
        features, original = tower.place(decoder.encode(inputs, tower))
        context.lap("vision", "tower")
        ids, visual = inputs["input_ids"], features.shape[1]
        before = decoder.embed(ids[:, : request.before])
        after = decoder.embed(ids[:, request.before + request.visual :])
        hidden = torch.cat([before, features.to(before.dtype), after], 1)
    cos, sin = decoder.rotary(hidden, _initial_positions(context, visual))
    context.lap("embed", "embed")
    return _Sequence(hidden, cos, sin, request.before, request.before + visual, original)


def _initial_positions(context: _Context, visual: int) -> Tensor:
    """Positions of the sequence; compact from the start if the tower merged tokens."""
    inputs = context.inputs
    positions, request = inputs.positions, inputs.request
    return positions if visual == request.visual else positions[..., : request.length - (request.visual - visual)]


# --- prefill --------------------------------------------------------------------------------


class _Prefill:
    """The decoder layers over the whole prompt, with the method's stages between them."""

    def __init__(self, context: _Context, sequence: _Sequence) -> None:
        from transformers import DynamicCache

        self.context = context
        self.sequence = sequence
        self.whole = (sequence.cos, sequence.sin)
        self.cache = DynamicCache()
        self.kept: list[Tensor] = []
        self.scores: Tensor | None = None
        self.selections: list[tuple[int, Tensor]] = []

    def run(self) -> Tensor:
        context, sequence, ledger = self.context, self.sequence, self.context.ledger
        for index, layer in enumerate(context.decoder.layers):
            self._act("entering", index)
            ledger.tokens.append(sequence.hidden.shape[1])
            ledger.visual.append(sequence.stop - sequence.start)
            self.kept.append(sequence.original)
            reading = self._prepare(index)
            sequence.hidden = layer(
                sequence.hidden,
                attention_mask=None,
                position_ids=None,
                past_key_values=self.cache,
                use_cache=True,
                position_embeddings=(sequence.cos, sequence.sin),
                tpprof=context.attention,
            )
            self.scores = reading.values if reading else None
            context.lap("prefill", "layer", index)
            self._act("leaving", index)
        context.attention.masks.clear()
        if context.plan.compressed and self.selections:
            self._compress()
            context.lap("prefill", "compress")
        ledger.cached = [layer.keys.shape[2] for layer in self.cache.layers]
        return sequence.hidden

    def cache_bytes(self) -> list[int]:
        return [
            sum(t.element_size() * t.numel() for t in (layer.keys, layer.values))
            for layer in self.cache.layers
        ]

    def _prepare(self, index: int) -> Reading | None:
        """Say how layer `index` attends, and what to read of it."""
        context, sequence, ledger = self.context, self.sequence, self.context.ledger
        use_map = book.builds_map(context.plan, context.policy, index)
        reading = None
        for stage in book.stages_reading(context.plan, index):
            reading = self._reading(stage)
            if not use_map:
                ledger.rows[index] = RowsRead(reading.stop - reading.start, reading.stop)
        if use_map:
            ledger.maps.append(index)

        def lap(part: str) -> None:
            context.lap("prefill", part, index)

        context.set_attention(use_map=use_map, reading=reading, lap=lap)
        return reading

    def _reading(self, stage: Stage) -> Reading:
        sequence = self.sequence
        length = sequence.hidden.shape[1]
        start, stop = {
            "last": (length - 1, length),
            "last-visual": (sequence.stop - 1, sequence.stop),
            "text": (sequence.stop, length),
        }[stage.rows or "last"]
        columns = slice(sequence.start, sequence.stop)
        return Reading(start, stop, columns, whole_map=self.context.published)

    def _act(self, moment: str, index: int) -> None:
        for stage in self.context.plan.stages:
            if stage.layer == index and stage.moment == moment:
                self._stage(stage)
                self.context.lap("prefill", "select", index)

    def _stage(self, stage: Stage) -> None:
        context, sequence = self.context, self.sequence
        view = View(
            layer=stage.layer,
            request=context.inputs.request,
            hidden=sequence.hidden,
            scores=self.scores if stage.rows else None,
            published=context.published,
            notes=context.notes,
            start=sequence.start,
            stop=sequence.stop,
            original=sequence.original,
        )
        keep = context.method.select(view, stage)
        if keep is None:
            return
        self.selections.append((stage.first_layer_after, keep.index))
        self._apply(keep)

    def _apply(self, keep: Keep) -> None:
        """Move hidden states, positions, origins and marks as `keep` says."""
        sequence, notes = self.sequence, self.context.notes
        start, stop = sequence.start, sequence.stop

        def around(tensor: Tensor, visual: Tensor) -> Tensor:
            return torch.cat([tensor[:, :start], visual, tensor[:, stop:]], 1)

        hidden = sequence.hidden
        sequence.hidden = around(hidden, _kept_states(hidden[:, start:stop], keep))
        sequence.original = _trace_origin(sequence.original, keep)
        notes.marks = {name: flags.gather(1, keep.index) for name, flags in notes.marks.items()}
        sequence.stop = start + keep.index.shape[1]
        compact = self.context.plan.positions == "compact"
        if compact and self.context.inputs.positions.dim() == 2:
            length = sequence.hidden.shape[1]
            sequence.cos, sequence.sin = (table[:, :length] for table in self.whole)
        else:
            for name in ("cos", "sin"):
                table = getattr(sequence, name).expand(hidden.shape[0], -1, -1)
                setattr(sequence, name, around(table, _take(table[:, start:stop], keep.index)))

    def _compress(self) -> None:
        """Shrink the caches of the plan's layers to the survivors of the last stage."""
        start = self.sequence.start
        for index in self.context.plan.compressed:
            later = [chosen for first, chosen in self.selections if first > index]
            if not later:
                continue
            survivors = later[-1]
            for chosen in reversed(later[:-1]):
                survivors = chosen.gather(1, survivors)
            layer = self.cache.layers[index]
            stop = start + self.context.ledger.visual[index]
            place = survivors[:, None, :, None]
            for name in ("keys", "values"):
                states = getattr(layer, name)
                shape = (-1, states.shape[1], -1, states.shape[3])
                visual = states[:, :, start:stop].gather(2, place.expand(*shape))
                parts = [states[:, :, :start], visual, states[:, :, stop:]]
                setattr(layer, name, torch.cat(parts, 2))


# --- decode ---------------------------------------------------------------------------------


def _decode(context: _Context, cache: Any, tokens: list[Tensor], new_tokens: int) -> list[Tensor]:
    """Greedy decode, appending to `tokens`; returns the logits [B, vocabulary] of each step."""
    decoder, ledger, plan = context.decoder, context.ledger, context.plan
    if new_tokens <= len(tokens):
        return []
    tables = _decode_tables(context, ledger.cached, new_tokens - 1)
    released = plan.published if context.published else None
    all_logits = []
    for step in range(new_tokens - 1):
        hidden = decoder.embed(tokens[-1])
        ledger.decode_keys.append([count + step + 1 for count in ledger.cached])
        for index, layer in enumerate(decoder.layers):
            use_map = book.builds_map(plan, context.policy, index, decode=True)
            context.set_attention(use_map=use_map, reading=None)
            cos, sin = tables[index]
            place = (cos[:, step : step + 1], sin[:, step : step + 1])
            if released and released.decode:  # one position built on the host for every layer
                length = torch.tensor([[ledger.cached[index] + step]])
                place = decoder.rotary(hidden, _as_positions(context, length.to(hidden.device)))
            hidden = layer(
                hidden,
                attention_mask=None,
                position_ids=None,
                past_key_values=cache,
                use_cache=True,
                position_embeddings=place,
                tpprof=context.attention,
            )
        logits = decoder.head(hidden)[:, 0]
        all_logits.append(logits)
        tokens.append(logits.argmax(-1, keepdim=True))
        context.lap("decode", "token", step)
    return all_logits


def _decode_tables(
    context: _Context, cached: list[int], steps: int
) -> list[tuple[Tensor, Tensor]]:
    """Cosine and sine [1, steps, head_dim] of the decoded tokens, for each layer.

    With `keep` the count goes on behind the whole prompt; with `compact` each layer goes on
    behind its own cache, as the released code does.
    """
    positions = context.inputs.positions
    compact = context.plan.positions == "compact" and positions.dim() == 2
    starts = cached if compact else [context.inputs.next_position] * len(cached)
    tables: dict[int, tuple[Tensor, Tensor]] = {}
    for start in set(starts):
        steps_ahead = torch.arange(start, start + steps, device=positions.device)[None]
        hidden = positions.new_zeros((), dtype=context.decoder.dtype)
        tables[start] = context.decoder.rotary(hidden, _as_positions(context, steps_ahead))
    return [tables[start] for start in starts]


def _as_positions(context: _Context, positions: Tensor) -> Tensor:
    """[1, S] as the model's rotary embedding wants it: M-RoPE takes three equal axes."""
    return positions if context.inputs.positions.dim() == 2 else positions.expand(3, 1, -1)


# --- gathers --------------------------------------------------------------------------------


def _arange(count: int, like: Tensor) -> Tensor:
    return torch.arange(count, device=like.device)


def _take(states: Tensor, index: Tensor) -> Tensor:
    """states [B, n, d] at index [B, k]."""
    return states.gather(1, index[..., None].expand(-1, -1, states.shape[-1]))


def _kept_states(states: Tensor, keep: Keep) -> Tensor:
    return _take(states, keep.index) if keep.features is None else keep.features


def _trace_origin(original: Tensor, keep: Keep) -> Tensor:
    origins = original.gather(1, keep.index)
    return origins if keep.merged is None else origins.masked_fill(keep.merged, -1)
