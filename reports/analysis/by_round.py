"""What the samples of a cell come to, round by round, and which vanilla they stand against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from statistics import median

from ..record.cell import SpanKey
from ..record.labels import ran
from ..record.schema import Cell, Record, Sample
from .intervals import Estimate, median_interval, speedup

SCORING = ("score", "select", "compress")
"""The parts in which a method decides what goes, and moves what stays."""


def seconds_in(places: Sequence[int]) -> Callable[[Sample], float]:
    """What gives the seconds that a sample spent in the parts at `places`, one or more."""
    if len(places) == 1:
        return lambda sample: sample.parts[places[0]]
    take = itemgetter(*places)
    return lambda sample: sum(take(sample.parts))


def by_round(cell: Cell, value: Callable[[Sample], float]) -> dict[int, float]:
    """The median of `value` over the samples of each round.

    A round is one sample, or one process with several: samples of one process are not independent,
    so that the process is the unit from which intervals are made.
    """
    rounds: dict[int, list[float]] = {}
    for sample in cell.samples:
        rounds.setdefault(sample.round, []).append(value(sample))
    return {
        number: values[0] if len(values) == 1 else median(values)
        for number, values in rounds.items()
    }


def latencies(cell: Cell) -> dict[int, float]:
    """Seconds of a whole request, by round."""
    return by_round(cell, lambda sample: sample.latency)


def latency(cell: Cell) -> Estimate | None:
    """Seconds of a whole request; None without samples."""
    return median_interval(list(latencies(cell).values()))


def pairs(vanilla: Cell, cell: Cell) -> list[tuple[float, float]]:
    """Seconds of vanilla's request and of the cell's, for each round that both have."""
    full, own = latencies(vanilla), latencies(cell)
    return [(full[number], own[number]) for number in own if number in full]


def paired_speedup(vanilla: Cell, cell: Cell) -> Estimate | None:
    """Vanilla's latency over the cell's, round by round; None without a round that both have."""
    return speedup(pairs(vanilla, cell))


def phase(cell: Cell, name: str) -> Estimate | None:
    """Seconds of a phase; None where the cell has no such phase, or no samples."""
    places = [number for number, part in enumerate(cell.parts) if part.phase == name]
    return median_interval(list(by_round(cell, seconds_in(places)).values())) if places else None


def spans(cell: Cell) -> list[SpanKey]:
    """The parts of a request, as keys, in the order of their times."""
    return [(part.phase, part.part, part.index) for part in cell.parts]


def weighted(cell: Cell, weights: dict[SpanKey, float]) -> dict[int, float]:
    """By round, the weighted sum over the places of `cell`, in seconds; a place that it lacks
    takes no time."""
    terms = [(n, weights[span]) for n, span in enumerate(spans(cell)) if span in weights]
    return by_round(cell, lambda sample: sum(w * sample.parts[n] for n, w in terms))


def baseline(record: Record, cell: Cell) -> Cell | None:
    """The first vanilla cell that ran under the same runtime as `cell`, and did not fail: what a
    runtime gains is no merit of a method. A callable is compared with the first one, if there is
    none such."""
    vanillas = [other for other in record.cells if other.name == "vanilla" and not other.error]
    other_runtime = vanillas[0] if vanillas and cell.callable is not None else None
    return next((other for other in vanillas if ran(other) == ran(cell)), other_runtime)
