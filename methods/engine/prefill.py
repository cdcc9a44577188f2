"""Prefill: the decoder layers over the whole prompt, with the method's stages between them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..contract.arrangement import Arrangement, gathered
from ..contract.method import Keep
from ..contract.plan import Entering, Leaving, Stage
from ..contract.view import View
from ..selection.choose import take
from .attention import AheadError, Reading
from .context import Context, TokenSequence, kept_states, move_riders, trace_origin
from .devices import near
from .layer import call_layer
from .ledger import builds_map, row_span, rows_ahead, rows_beside
from .verify import decide
from .vision import embed


@dataclass
class Prompt:
    """What a prompt left, for decode to go on from.

    logits: [B, vocabulary] at its last position. token: int64 [B, 1], the first, greedy.
    kept: as in `Trace`. cache: keys and values of each decoder layer.
    """

    logits: Tensor
    token: Tensor
    kept: list[Tensor]
    cache: Any

    def cache_bytes(self) -> list[int]:
        """Bytes of keys and values in each decoder layer's cache."""
        return [
            sum(t.element_size() * t.numel() for t in (layer.keys, layer.values))
            for layer in self.cache.layers
        ]


def prefill(context: Context) -> Prompt:
    """From pixels to the first token: vision, embedding, decoder layers and head."""
    try:
        layers = Prefill(context, embed(context))
        hidden = layers.run()
    finally:
        context.rest()
    last, device = hidden[:, -1:], context.decoder.head_device
    if last.device != device:
        last = last.to(device)
        context.cross(device, "head")
    logits = context.decoder.head(last)[:, 0]
    token = logits.argmax(-1, keepdim=True)
    context.lap("head", "head")
    return Prompt(logits, token, layers.kept, layers.cache)


class Prefill:
    """The decoder layers over the whole prompt, and the method's stages before and between them."""

    def __init__(self, context: Context, sequence: TokenSequence) -> None:
        self.context = context
        self.sequence = sequence
        self.whole = (sequence.cos, sequence.sin)
        self.cache: Any = context.runtime.new_cache()
        self.kept: list[Tensor] = []
        self.reading: Reading | None = None
        self.selections: list[tuple[int, Tensor]] = []
        self.arrangements: list[Arrangement] = []

    def run(self) -> Tensor:
        context, sequence, ledger = self.context, self.sequence, self.context.ledger
        for stage in context.plan.projected:
            self._act(stage, self.reading)
            context.lap("project", "select", 0)
        ledger.entering = sequence.hidden.shape[1]
        for index in range(len(context.decoder.layers)):
            self._act_at(Entering(index))
            self._reach(index)
            ledger.tokens.append(sequence.hidden.shape[1])
            ledger.visual.append(sequence.arrangement.count)
            self.arrangements.append(sequence.arrangement)
            self.kept.append(sequence.original)
            self.reading = self._prepare(index)
            sequence.hidden = context.runtime.layer(
                index,
                sequence.hidden,
                cache=self.cache,
                position_embeddings=(sequence.cos, sequence.sin),
                attention=context.attention,
            )
            self._add(index)
            context.lap("prefill", "layer", index)
            self._act_at(Leaving(index))
        if context.plan.compressed and self.selections:
            self._compress()
            context.lap("prefill", "compress")
        ledger.cached = [layer.keys.shape[2] for layer in self.cache.layers]
        return sequence.hidden

    def _reach(self, index: int) -> None:
        """Move the tokens to where layer `index` lies, if they are not there."""
        context, device = self.context, self.context.decoder.devices[index]
        if self.sequence.hidden.device == device:
            return
        self.sequence.move(device)
        self.whole = (self.whole[0].to(device), self.whole[1].to(device))
        context.notes.move(device)
        context.cross(device, "prefill", index)

    def _add(self, index: int) -> None:
        """Add what the tower has for the visual tokens behind a layer."""
        sequence = self.sequence
        features = sequence.added.pop(index, None)
        if features is not None:
            sequence.hidden = sequence.arrangement.added(sequence.hidden, features)

    def _prepare(self, index: int) -> Reading | None:
        """Say how layer `index` attends, and what to read of it."""
        context, ledger = self.context, self.context.ledger
        use_map = builds_map(context.plan, context.policy, index)
        stage, reading = context.plan.readers.get(index), None
        if stage is not None:
            reading = self._reading(stage)
            beside = rows_beside(stage, (reading.start, reading.stop), has_map=use_map)
            if beside:
                ledger.rows[index] = beside
        if use_map:
            ledger.maps.append(index)

        def lap(part: str) -> None:
            context.lap("prefill", part, index)

        context.set_attention(use_map=use_map, reading=reading, lap=lap)
        return reading

    def _reading(self, stage: Stage) -> Reading:
        sequence = self.sequence
        start, stop = row_span(stage, sequence.arrangement.stop, sequence.length)
        columns = sequence.arrangement.columns
        reading = Reading(start, stop, columns, with_keys=stage.keys is not None)
        reading.whole_map = self.context.published
        reading.ranks = self.context.decoder.ranks
        if stage.rows is not None:
            reading.each_head = stage.rows.heads == "each"
            reading.softmax = stage.rows.softmax
        return reading

    def _ahead(self, stage: Stage) -> Reading:
        """What a stage reads of the layer that runs next: its queries and keys of all tokens are
        computed for it, and once more when it runs."""
        context, sequence, index = self.context, self.sequence, stage.read_layer
        self._reach(index)
        reading, length = self._reading(stage), sequence.length
        read = rows_ahead((reading.start, reading.stop), length, context.policy)
        context.ledger.ahead[index] = read
        wanted = slice(reading.start, reading.stop)
        whole_map = read.rows != reading.rows  # of which the rows are taken
        if whole_map:
            reading.start, reading.stop = 0, length
        reading.ahead = True
        context.set_attention(use_map=False, reading=reading)
        with contextlib.suppress(AheadError):
            call_layer(
                context.decoder.layers[index],
                sequence.hidden,
                None,
                (sequence.cos, sequence.sin),
                context.attention,
            )
        if whole_map:
            reading.parts = [rows[..., wanted, :] for rows in reading.parts]
        context.lap("prefill", "score", index)
        return reading

    def _act_at(self, site: Entering | Leaving) -> None:
        for stage in self.context.plan.decoder:
            if stage.site == site:
                self._act(stage, self._ahead(stage) if stage.ahead else self.reading)
                self.context.lap("prefill", "select", site.layer)

    def _act(self, stage: Stage, reading: Reading | None) -> None:
        context, sequence = self.context, self.sequence
        view = View(
            site=stage.site,
            request=context.inputs.request,
            hidden=sequence.hidden,
            arrangement=sequence.arrangement,
            original=sequence.original,
            notes=context.notes,
            norm=context.decoder.norm,
            sizes=sequence.sizes,
            rotary=(sequence.cos, sequence.sin),
            rows_read=_near(reading.values, sequence) if reading and stage.rows else None,
            keys_read=_near(reading.keys, sequence) if reading and stage.keys else None,
            published=context.published,
        )
        keep = decide(context, view, stage)
        if keep is None:
            return
        if stage.in_decoder:
            self.selections.append((stage.first_layer_after, keep.index))
        self._apply(keep, compact=context.plan.positions == "compact" or not stage.in_decoder)

    def _apply(self, keep: Keep, *, compact: bool) -> None:
        """Move hidden states, positions and all that lies on the tokens as `keep` says."""
        sequence = self.sequence
        before, hidden = sequence.arrangement, sequence.hidden
        after = before.kept(keep.index)
        states = kept_states(before.visual(hidden), keep)
        sequence.arrangement, sequence.hidden = after, before.joined(hidden, states, after)
        sequence.original = trace_origin(sequence.original, keep)
        sequence.sizes = move_riders(self.context.notes, sequence.sizes, keep, before.count)
        sequence.added = {n: take(rider, keep.index) for n, rider in sequence.added.items()}
        if compact and self.context.inputs.positions.dim() == 2:
            length = sequence.hidden.shape[1]
            sequence.cos, sequence.sin = (table[:, :length] for table in self.whole)
        else:
            for name in ("cos", "sin"):
                table = getattr(sequence, name).expand(hidden.shape[0], -1, -1)
                left = take(before.visual(table), keep.index)
                setattr(sequence, name, before.joined(table, left, after))

    def _compress(self) -> None:
        """Shrink the caches of the plan's layers to the survivors of the last stage."""
        for index in self.context.plan.compressed:
            later = [chosen for first, chosen in self.selections if first > index]
            if not later:
                continue
            layer, before = self.cache.layers[index], self.arrangements[index]
            later = [near(chosen, layer.keys.device) for chosen in later]
            survivors = later[-1]
            for chosen in reversed(later[:-1]):
                survivors = chosen.gather(1, survivors)
            after = before.kept(survivors)
            for name in ("keys", "values"):
                states = getattr(layer, name)
                visual = gathered(before.visual(states, 2), survivors, 2)
                setattr(layer, name, before.joined(states, visual, after, 2))


def _near(values: Tensor | None, sequence: TokenSequence) -> Tensor | None:
    """What was read of a layer, where the tokens are by now."""
    return None if values is None else near(values, sequence.hidden.device)
