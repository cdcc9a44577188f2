"""What a stopwatch of the field would have said of the cells of a run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ..analysis import roofline
from ..analysis.by_round import baseline, latency, paired_speedup
from ..analysis.intervals import Estimate
from ..record.schema import Cell, Record
from .known import FieldStopwatch


@dataclass(frozen=True)
class StopwatchReading:
    """A cell under a stopwatch, beside what is measured here.

    seconds: what the stopwatch says; None with a reason. speedup: vanilla's seconds over them, as
    it would be printed: one number. latency, gain: of the whole request, with intervals. outside:
    the share of the requests that it leaves out, 0 where it leaves out nothing.
    """

    watch: FieldStopwatch
    cell: Cell
    seconds: float | None
    speedup: float | None
    latency: Estimate | None
    gain: Estimate | None
    outside: float | None
    reason: str


def readings(record: Record, watches: Sequence[FieldStopwatch]) -> list[StopwatchReading]:
    """Every measured cell under every stopwatch."""
    return [
        _read(record, cell, watch) for watch in watches for cell in record.cells if cell.samples
    ]


def _read(record: Record, cell: Cell, watch: FieldStopwatch) -> StopwatchReading:
    vanilla = baseline(record, cell)
    seconds, reason = _seconds(record, cell, watch)
    full = _seconds(record, vanilla, watch)[0] if vanilla is not None else None
    return StopwatchReading(
        watch=watch,
        cell=cell,
        seconds=seconds,
        speedup=full / seconds if full and seconds else None,
        latency=latency(cell),
        gain=paired_speedup(vanilla, cell) if vanilla is not None else None,
        outside=_outside(cell, watch),
        reason=reason,
    )


def _seconds(record: Record, cell: Cell, watch: FieldStopwatch) -> tuple[float | None, str]:
    """What the stopwatch says of a cell, or why nothing is known of it."""
    if not cell.samples:
        return None, "it was not measured"
    if watch.inside is None:
        return None, watch.besides
    if watch.statistic == "roofline":
        return _floor(record, cell)
    if watch.statistic == "mean since the start":
        times = [*cell.warmups, *(sample.latency for sample in cell.samples)]
        return statistics.fmean(times), ""
    within = [number for number, part in enumerate(cell.parts) if watch.inside(part)]
    whole = len(within) == len(cell.parts)
    if not within and "parts" in cell.missing:
        return None, f"its parts cannot be told apart: {cell.missing['parts']}"
    times = [
        sample.latency if whole else sum(sample.parts[number] for number in within)
        for sample in cell.samples
    ]
    if watch.statistic == "first":
        return times[0], ""
    middle = statistics.median if watch.statistic == "median" else statistics.fmean
    return middle(times), ""


def _floor(record: Record, cell: Cell) -> tuple[float | None, str]:
    """The least time that the device's peaks allow prefill, by formula."""
    if record.peaks is None:
        return None, "the device was not calibrated (`tpprof calibrate`)"
    floors = roofline.phase_seconds(record.peaks, cell.cost, record.model.dtype)
    found = floors.get("prefill")
    return found, "" if found else "no formula knows its work"


def _outside(cell: Cell, watch: FieldStopwatch) -> float | None:
    """The share of the time of all requests that lies outside of the stopwatch's clicks."""
    if watch.inside is None or watch.statistic == "roofline" or "parts" in cell.missing:
        return None
    within = [number for number, part in enumerate(cell.parts) if watch.inside(part)]
    if len(within) == len(cell.parts):
        return 0.0
    timed = sum(sample.parts[number] for sample in cell.samples for number in within)
    return 1 - timed / sum(sample.latency for sample in cell.samples)
