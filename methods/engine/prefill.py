"""Prefill: the decoder layers over the whole prompt, with the method's stages between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..contract.choose import take
from ..contract.method import Keep
from ..contract.plan import Stage
from ..contract.view import View
from .attention import RowsWanted
from .context import Context, TokenSequence, kept_states, trace_origin
from .ledger import RowsRead, builds_map, decision_flops, stages_reading
from .verify import select
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
    logits = context.decoder.head(hidden[:, -1:])[:, 0]
    token = logits.argmax(-1, keepdim=True)
    context.lap("head", "head")
    return Prompt(logits, token, layers.kept, layers.cache)


class Prefill:
    """The decoder layers over the whole prompt, with the method's stages between them."""

    def __init__(self, context: Context, sequence: TokenSequence) -> None:
        self.context = context
        self.sequence = sequence
        self.whole = (sequence.cos, sequence.sin)
        self.cache: Any = context.runtime.new_cache()
        self.kept: list[Tensor] = []
        self.scores: Tensor | None = None
        self.selections: list[tuple[int, Tensor]] = []

    def run(self) -> Tensor:
        context, sequence, ledger = self.context, self.sequence, self.context.ledger
        for index in range(len(context.decoder.layers)):
            self._act("entering", index)
            ledger.tokens.append(sequence.hidden.shape[1])
            ledger.visual.append(sequence.stop - sequence.start)
            self.kept.append(sequence.original)
            reading = self._prepare(index)
            sequence.hidden = context.runtime.layer(
                index,
                sequence.hidden,
                cache=self.cache,
                position_embeddings=(sequence.cos, sequence.sin),
                attention=context.attention,
            )
            self.scores = reading.values if reading else None
            context.lap("prefill", "layer", index)
            self._act("leaving", index)
        if context.plan.compressed and self.selections:
            self._compress()
            context.lap("prefill", "compress")
        ledger.cached = [layer.keys.shape[2] for layer in self.cache.layers]
        return sequence.hidden

    def _prepare(self, index: int) -> RowsWanted | None:
        """Say how layer `index` attends, and what to read of it."""
        context, ledger = self.context, self.context.ledger
        use_map = builds_map(context.plan, context.policy, index)
        reading = None
        for stage in stages_reading(context.plan, index):
            reading = self._reading(stage)
            if not use_map:
                ledger.rows[index] = RowsRead(reading.stop - reading.start, reading.stop)
        if use_map:
            ledger.maps.append(index)

        def lap(part: str) -> None:
            context.lap("prefill", part, index)

        context.set_attention(use_map=use_map, reading=reading, lap=lap)
        return reading

    def _reading(self, stage: Stage) -> RowsWanted:
        sequence = self.sequence
        length = sequence.hidden.shape[1]
        start, stop = {
            "last": (length - 1, length),
            "last-visual": (sequence.stop - 1, sequence.stop),
            "text": (sequence.stop, length),
        }[stage.rows or "last"]
        columns = slice(sequence.start, sequence.stop)
        return RowsWanted(start, stop, columns, whole_map=self.context.published)

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
        keep = select(context.method, view, stage, verify=context.verify)
        known = keep.flops if keep else None
        flops = decision_flops(stage, context.policy) if known is None else known
        context.ledger.select.append(flops)
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
        sequence.hidden = around(hidden, kept_states(hidden[:, start:stop], keep))
        sequence.original = trace_origin(sequence.original, keep)
        notes.marks = {name: flags.gather(1, keep.index) for name, flags in notes.marks.items()}
        sequence.stop = start + keep.index.shape[1]
        compact = self.context.plan.positions == "compact"
        if compact and self.context.inputs.positions.dim() == 2:
            length = sequence.hidden.shape[1]
            sequence.cos, sequence.sin = (table[:, :length] for table in self.whole)
        else:
            for name in ("cos", "sin"):
                table = getattr(sequence, name).expand(hidden.shape[0], -1, -1)
                setattr(sequence, name, around(table, take(table[:, start:stop], keep.index)))

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
            index_of = survivors[:, None, :, None]
            for name in ("keys", "values"):
                states = getattr(layer, name)
                shape = (-1, states.shape[1], -1, states.shape[3])
                visual = states[:, :, start:stop].gather(2, index_of.expand(*shape))
                parts = [states[:, :, :start], visual, states[:, :, stop:]]
                setattr(layer, name, torch.cat(parts, 2))
