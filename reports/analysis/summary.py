"""The rows of the table: what each cell's samples and counts come to, against vanilla."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from ..record.schema import Cell, Record
from .by_round import baseline, by_round, latencies, latency, paired_speedup, phase, seconds_in
from .intervals import Estimate, median_interval, percentile
from .promise import over_promise, promise_of, touched_share


@dataclass(frozen=True)
class Row:
    """One cell of the record in numbers; None where there is nothing to derive it from. What a cell
    took before it failed is no result: all that is measured of it is None.

    latency, prefill: seconds. decode: seconds per token. p95, p99: of the latency. speedup:
    measured, end to end, round by round against vanilla under the same runtime. precision: see
    precision(); reached: whether it met the target.
    flops: see request_flops. claimed, promised, by_floors: speed-ups (see promise).
    over_promise: measured time over promised time; None where the promise lies within the noise of
    the speed-up.
    touched: the share of vanilla's latency that pruning can touch; see touched_share. None of
    vanilla itself.
    parts_sum: the parts of a request over its latency.
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
    claimed: float | None
    promised: float | None
    by_floors: float | None
    over_promise: Estimate | None
    touched: Estimate | None
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
    return [_row(record, cell, baseline(record, cell)) for cell in record.cells]


def precision(record: Record, cell: Cell) -> float | None:
    """Half the width of the interval of the paired speed-up, over it: of vanilla, which is compared
    with itself, 0. Of the latency, where nothing is compared. None from too few rounds."""
    vanilla = baseline(record, cell)
    paired = vanilla is not None and any(
        other is not vanilla and not other.error and baseline(record, other) is vanilla
        for other in record.cells
    )
    known = paired_speedup(vanilla, cell) if vanilla and paired else latency(cell)
    return known.precision if known else None


def _row(record: Record, cell: Cell, vanilla: Cell | None) -> Row:
    if cell.error:
        untimed = msgspec.structs.replace(cell, samples=[])
        return dataclasses.replace(
            _of_samples(record, untimed, vanilla), cell=cell, peak_bytes=None
        )
    return _of_samples(record, cell, vanilla)


def _of_samples(record: Record, cell: Cell, vanilla: Cell | None) -> Row:
    stopping, gain = record.spec.stopping, paired_speedup(vanilla, cell) if vanilla else None
    flops = request_flops(cell)
    full = request_flops(vanilla) if vanilla else 0
    promise = promise_of(record, cell, vanilla) if vanilla else None
    promised, over = None, None
    if promise is not None and vanilla is not None and gain is not None:
        promised = 1 / promise.share
        if cell is not vanilla and not _within_noise(promised, gain):
            over = over_promise(cell, vanilla, gain, promise)
    whole, memory = latency(cell), cell.memory
    width = precision(record, cell)
    times = [sample.latency for sample in cell.samples]
    if stopping.isolate:
        times = list(latencies(cell).values())
    sums = by_round(cell, lambda sample: sum(sample.parts) / sample.latency)
    return Row(
        cell=cell,
        latency=whole,
        prefill=phase(cell, "prefill"),
        decode=_per_token(cell),
        p95=percentile(times, 0.95),
        p99=percentile(times, 0.99),
        speedup=gain,
        precision=width,
        reached=width is not None and width <= stopping.target_ci,
        flops=flops,
        flops_share=flops / full if flops and full else None,
        claimed=1 / promise.claim if promise else None,
        promised=promised,
        by_floors=1 / promise.floors if promise and promise.floors else None,
        over_promise=over,
        touched=touched_share(cell, vanilla) if vanilla and cell.name != "vanilla" else None,
        kv_bytes=sum(cell.kv_bytes_prefill) or None,
        peak_bytes=memory.allocator if memory.allocator is not None else memory.resident,
        parts_sum=median_interval(list(sums.values())),
    )


def request_flops(cell: Cell) -> int:
    """FLOPs of the whole request, by formula; of a callable, which has none, as torch counts them,
    rotary tables left out. 0 where neither is known."""
    if cell.cost:
        return sum(item.flops for item in cell.cost)
    return sum(cell.counted_flops.values()) - sum(cell.table_flops.values())


def _within_noise(promised: float, gain: Estimate) -> bool:
    """Whether the clock could not tell the promised speed-up from none: what is made of the two is
    noise. Nothing is known of it from too few rounds."""
    if gain.low is None or gain.high is None:
        return False
    return abs(math.log(promised)) <= math.log(gain.high / gain.low) / 2


def _per_token(cell: Cell) -> Estimate | None:
    """Seconds of decode per token; None where nothing was decoded."""
    steps = sum(1 for part in cell.parts if (part.phase, part.part) == ("decode", "token"))
    if not steps:
        return None
    whole = seconds_in([number for number, part in enumerate(cell.parts) if part.phase == "decode"])
    return median_interval(list(by_round(cell, lambda sample: whole(sample) / steps).values()))


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The Pareto front: places of the points that no other is at least as good as in both numbers,
    the more the better, and better in one; by the first falling, of equal ones all."""
    chosen: list[int] = []
    falling = sorted(range(len(points)), key=lambda n: (-points[n][0], -points[n][1]))
    for place in falling:
        best = points[chosen[-1]] if chosen else None
        if best is None or points[place] == best or points[place][1] > best[1]:
            chosen.append(place)
    return chosen
