"""The rows of the table: what each cell's samples and counts come to, against vanilla."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .record import Cell, Record, Sample
from .statistics import Estimate, median, ratios


@dataclass(frozen=True)
class Row:
    """One cell of the record in numbers; None where there is nothing to derive it from.

    latency, prefill: seconds. decode: seconds per token. speedup: measured, end to end, round by
    round against vanilla. flops: of the whole request. promised: vanilla's FLOPs over this cell's.
    realised: the share of the promised saving of time that the clock confirms,
    (1 - T / T0) / (1 - F / F0). parts_sum: the parts of a request over its latency.
    """

    cell: Cell
    latency: Estimate | None
    prefill: Estimate | None
    decode: Estimate | None
    speedup: Estimate | None
    flops: int
    flops_share: float | None
    promised: float | None
    realised: float | None
    kv_bytes: int | None
    peak_bytes: int | None
    parts_sum: Estimate | None

    @property
    def visual_last(self) -> int | None:
        """Visual tokens entering the last decoder layer."""
        return self.cell.visual_per_layer[-1] if self.cell.visual_per_layer else None

    @property
    def visual_mean(self) -> float | None:
        """Mean over decoder layers of the visual tokens entering a layer."""
        counts = self.cell.visual_per_layer
        return sum(counts) / len(counts) if counts else None


def rows(record: Record) -> list[Row]:
    """One row per cell, in the record's order; vanilla is the first."""
    vanilla = next((cell for cell in record.cells if cell.name == "vanilla"), None)
    return [_row(cell, vanilla) for cell in record.cells]


def seconds(cell: Cell, sample: Sample, wanted: Callable[[str, str], bool]) -> float:
    """Seconds that `sample` spent in the parts for which wanted(phase, part) holds."""
    pairs = zip(cell.parts, sample.parts, strict=True)
    return sum(time for part, time in pairs if wanted(part.phase, part.part))


def phase_median(cell: Cell, phase: str) -> float | None:
    """Median seconds of a phase; None where the cell has no such phase."""
    if all(part.phase != phase for part in cell.parts):
        return None
    estimate = median([seconds(cell, s, lambda p, _: p == phase) for s in cell.samples])
    return estimate.median if estimate else None


def _row(cell: Cell, vanilla: Cell | None) -> Row:
    speedup = _speedup(cell, vanilla)
    flops = sum(item.flops for item in cell.flops)
    full = sum(item.flops for item in vanilla.flops) if vanilla else 0
    share = flops / full if flops and full else None
    realised = None
    if speedup and share is not None and share < 1 and cell is not vanilla:
        realised = (1 - 1 / speedup.median) / (1 - share)
    steps = sum(1 for part in cell.parts if part.phase == "decode")
    memory = cell.memory
    return Row(
        cell=cell,
        latency=median([sample.latency for sample in cell.samples]),
        prefill=_phase(cell, "prefill"),
        decode=_phase(cell, "decode", steps) if steps else None,
        speedup=speedup,
        flops=flops,
        flops_share=share,
        promised=1 / share if share else None,
        realised=realised,
        kv_bytes=sum(cell.kv_bytes_prefill) or None,
        peak_bytes=memory.allocator if memory.allocator is not None else memory.resident,
        parts_sum=median([sum(sample.parts) / sample.latency for sample in cell.samples]),
    )


def _phase(cell: Cell, phase: str, divisor: int = 1) -> Estimate | None:
    spent = [seconds(cell, sample, lambda p, _: p == phase) for sample in cell.samples]
    return median([time / divisor for time in spent])


def _speedup(cell: Cell, vanilla: Cell | None) -> Estimate | None:
    """Vanilla's latency over the cell's, paired by round."""
    if vanilla is None:
        return None
    full = {sample.round: sample.latency for sample in vanilla.samples}
    pairs = [(full[s.round], s.latency) for s in cell.samples if s.round in full]
    return ratios([a for a, _ in pairs], [b for _, b in pairs])
