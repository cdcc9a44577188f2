"""The cells that a cell is compared with, and what its full attention maps touch."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from ..record.cell import SpanKey
from ..record.labels import ran
from ..record.schema import Activity, Cell, Record
from .by_round import baseline, spans, weighted

MAP = "attention map"


@dataclass(frozen=True)
class Counterparts:
    """A measured cell beside vanilla, and the same method under the cheaper attention policies.

    vanilla ran under the same runtime. rows, maps: the method under that policy, where `cell` is
    under a dearer one and they were measured. mapped: the places that full attention maps make
    dearer than rows; released: those that the released code makes dearer than maps.
    """

    cell: Cell
    vanilla: Cell
    rows: Cell | None
    maps: Cell | None

    @functools.cached_property
    def mapped(self) -> set[SpanKey]:
        dearer = self.cell if self.cell.attention == "maps" else self.maps
        return _touched(dearer) if dearer and self.rows else set()

    @functools.cached_property
    def released(self) -> set[SpanKey]:
        cheaper = self.maps or self.rows
        if self.cell.attention != "published" or cheaper is None:
            return set()
        decided = {span for span in spans(self.cell) if span[1] in ("select", "compress")}
        return _touched(self.cell) | _touched(cheaper) | decided

    def plain(self, span: SpanKey) -> Cell:
        """The cell in whose time at `place` there are neither maps nor released code, if any is."""
        if self.rows and span in self.mapped:
            return self.rows
        cheaper = self.maps or self.rows
        return cheaper if cheaper and span in self.released else self.cell

    @functools.cached_property
    def pruned(self) -> list[int]:
        """The decoder layers that see fewer tokens than vanilla's."""
        pairs = zip(self.cell.tokens_per_layer, self.vanilla.tokens_per_layer, strict=False)
        return [layer for layer, (own, full) in enumerate(pairs) if own < full]


def counterparts_of(record: Record, cell: Cell) -> Counterparts | None:
    """The cells to compare `cell` with: all were measured in some round together. None where the
    cell and vanilla were not."""
    vanilla = baseline(record, cell)
    shared = _rounds(cell) & _rounds(vanilla) if vanilla else set()
    if vanilla is None or not shared:
        return None
    found: dict[str, Cell] = {}
    for policy in ("rows", "maps", "published"):
        if policy == cell.attention:
            break
        for other in record.cells:
            same = (other.method, ran(other)) == (cell.method, ran(cell))
            if same and other.attention == policy and shared & _rounds(other):
                shared &= _rounds(other)
                found.setdefault(policy, other)
    return Counterparts(cell, vanilla, found.get("rows"), found.get("maps"))


def _rounds(cell: Cell) -> set[int]:
    return {sample.round for sample in cell.samples}


def layer_flops(cell: Cell, *, causal: bool = False) -> dict[int, int]:
    """FLOPs of each decoder layer in prefill: dense, as promised, or as a causal kernel does."""
    flops: dict[int, int] = {}
    for work in cell.cost:
        if (work.phase, work.part) == ("prefill", "layer") and work.index is not None:
            count = work.causal_flops if causal else work.flops
            flops[work.index] = flops.get(work.index, 0) + count
    return flops


def layer_seconds(cell: Cell, layers: Iterable[int]) -> float:
    """Seconds that the given decoder layers take in prefill: the median over rounds."""
    return median(weighted(cell, {("prefill", "layer", layer): 1.0 for layer in layers}).values())


def layer_rate(cell: Cell, layers: Iterable[int]) -> float | None:
    """FLOP/s of the given decoder layers in prefill, as a causal kernel does them: over their
    whole time, in which a GPU may wait for the host."""
    listed = list(layers)
    flops, seconds = layer_flops(cell, causal=True), layer_seconds(cell, listed)
    return sum(flops[layer] for layer in listed) / seconds if seconds else None


def counted(cell: Cell) -> dict[SpanKey, Activity]:
    """What was counted of each part of `cell`."""
    return {(part.phase, part.part, part.index): part for part in cell.activity}


def _touched(cell: Cell) -> set[SpanKey]:
    """Where `cell` builds full maps: decoder layers and their scores; the tower or decode whole."""
    built = [(work.phase, work.index) for work in cell.cost if work.operator == MAP]
    layers = {index for phase, index in built if phase == "prefill"}
    phases = {phase for phase, _ in built} - {"prefill"}
    return {
        (phase, part, index)
        for phase, part, index in spans(cell)
        if (phase == "prefill" and part in ("layer", "score") and index in layers)
        or (phase in phases and part not in ("select", "compress"))
    }
