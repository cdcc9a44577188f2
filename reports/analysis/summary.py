"""The rows of the table: what each cell's samples and counts come to, against vanilla."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from statistics import median as middle

from ..record.labels import ran
from ..record.schema import Cell, Record, Sample
from ..record.spec import Stopping
from .intervals import Estimate, median_interval, percentile, speedup


@dataclass(frozen=True)
class Row:
    """One cell of the record in numbers; None where there is nothing to derive it from.

    latency, prefill: seconds. decode: seconds per token. p95, p99: of the latency. speedup:
    measured, end to end, round by round against vanilla under the same runtime. precision: the
    wider of the intervals of latency and prefill, as half its width over the median; reached:
    whether it met the target.
    flops: of the whole request. promised: vanilla's FLOPs over this cell's. realised: the share of
    the promised saving of time that the clock confirms, (1 - T / T0) / (1 - F / F0). parts_sum:
    the parts of a request over its latency.
    """

    cell: Cell
    latency: Estimate | None
    prefill: Estimate | None
    decode: Estimate | None
    p95: float | None
    p99: float | None
    speedup: Estimate | None
    precision: float | None
    reached: bool
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
    """One row per cell, in the record's order."""
    return [_row(cell, baseline(record, cell), record.spec.stopping) for cell in record.cells]


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
        number: values[0] if len(values) == 1 else middle(values)
        for number, values in rounds.items()
    }


def phase(cell: Cell, name: str) -> Estimate | None:
    """Seconds of a phase; None where the cell has no such phase, or no samples."""
    places = [number for number, part in enumerate(cell.parts) if part.phase == name]
    return median_interval(list(by_round(cell, seconds_in(places)).values())) if places else None


def precision(cell: Cell) -> float | None:
    """The wider of the relative intervals of latency and prefill; None from too few rounds."""
    return _wider(latency(cell), phase(cell, "prefill"))


def _wider(*estimates: Estimate | None) -> float | None:
    widths = [estimate.precision for estimate in estimates if estimate is not None]
    known = [width for width in widths if width is not None]
    return max(known) if known and len(known) == len(widths) else None


def latency(cell: Cell) -> Estimate | None:
    """Seconds of a whole request; None without samples."""
    return median_interval(list(by_round(cell, lambda sample: sample.latency).values()))


def baseline(record: Record, cell: Cell) -> Cell | None:
    """The first vanilla cell that ran under the same runtime as `cell`: what a runtime gains is
    no merit of a method."""
    vanillas = [other for other in record.cells if other.name == "vanilla"]
    return next((other for other in vanillas if ran(other) == ran(cell)), None)


def _row(cell: Cell, vanilla: Cell | None, stopping: Stopping) -> Row:
    gain = _speedup(cell, vanilla)
    flops = sum(item.flops for item in cell.cost)
    full = sum(item.flops for item in vanilla.cost) if vanilla else 0
    share = flops / full if flops and full else None
    realised = None
    if gain and share is not None and share < 1 and cell is not vanilla:
        realised = (1 - 1 / gain.value) / (1 - share)
    whole, prefill, memory = latency(cell), phase(cell, "prefill"), cell.memory
    width = _wider(whole, prefill)
    latencies = [sample.latency for sample in cell.samples]
    if stopping.isolate:
        latencies = list(by_round(cell, lambda sample: sample.latency).values())
    sums = by_round(cell, lambda sample: sum(sample.parts) / sample.latency)
    return Row(
        cell=cell,
        latency=whole,
        prefill=prefill,
        decode=_per_token(cell),
        p95=percentile(latencies, 0.95),
        p99=percentile(latencies, 0.99),
        speedup=gain,
        precision=width,
        reached=width is not None and width <= stopping.target_ci,
        flops=flops,
        flops_share=share,
        promised=1 / share if share else None,
        realised=realised,
        kv_bytes=sum(cell.kv_bytes_prefill) or None,
        peak_bytes=memory.allocator if memory.allocator is not None else memory.resident,
        parts_sum=median_interval(list(sums.values())),
    )


def _per_token(cell: Cell) -> Estimate | None:
    """Seconds of decode per token; None where nothing was decoded."""
    steps = sum(1 for part in cell.parts if (part.phase, part.part) == ("decode", "token"))
    if not steps:
        return None
    whole = seconds_in([number for number, part in enumerate(cell.parts) if part.phase == "decode"])
    return median_interval(list(by_round(cell, lambda sample: whole(sample) / steps).values()))


def _speedup(cell: Cell, vanilla: Cell | None) -> Estimate | None:
    """Vanilla's latency over the cell's, paired by round."""
    if vanilla is None:
        return None
    full = by_round(vanilla, lambda sample: sample.latency)
    own = by_round(cell, lambda sample: sample.latency)
    return speedup([(full[number], own[number]) for number in own if number in full])
