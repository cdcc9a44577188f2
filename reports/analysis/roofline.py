"""The roofline: the least time that the hardware allows for the work of a request.

A part of a request takes at least the sum over its operators of max(FLOPs / peak, time to move the
bytes), plus a fixed time for each launch. Operators run one after another. FLOPs are those that a
causal kernel cannot skip, bytes and launches the fewest (see record.Cost), so that a measured time
below its floor means that the peaks are not those of the device.

Nor does it take less than moving, one after another, all weights and caches that it reads: each is
read once, so that a cache holds of them at its start what fits, and no more. A decode step of a
model larger than the caches moves at the speed of the memory, small though each product is.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..record.cell import SpanKey
from ..record.schema import Cost, Peaks


def move_seconds(peaks: Peaks, count: float) -> float:
    """Seconds that moving `count` bytes takes at least, caches included.

    Each further byte moves at the highest bandwidth that was measured on a working set as large as
    what has moved before: what fits a cache may still lie there, whatever comes after it may not.
    """
    seconds, moved = 0.0, 0.0
    levels = sorted(peaks.bandwidth, key=lambda level: level.footprint_bytes)
    for place, level in enumerate(levels):
        fastest = max(other.bytes_per_second for other in levels[place:])
        last = place == len(levels) - 1
        upto = count if last else min(count, level.footprint_bytes)
        seconds += max(0.0, upto - moved) / fastest
        moved = max(moved, upto)
    return seconds


def work_seconds(peaks: Peaks, work: Cost, dtype: str) -> float | None:
    """The floor of one operator class in one part; None where the peak for `dtype` is unknown."""
    peak = peaks.flops_per_second.get(dtype)
    if peak is None:
        return None
    launches = max(work.launches, 1)
    moved = move_seconds(peaks, (work.read_bytes + work.written_bytes) / launches) * launches
    return max(work.causal_flops / peak, moved) + work.launches * peaks.kernel_seconds


def part_seconds(peaks: Peaks, cost: Iterable[Cost], dtype: str) -> dict[SpanKey, float]:
    """The floor of every part of a request that does work; empty if the peak is unknown.

    The larger of the sum over its operators and of what its fresh bytes take to move, launches
    included.
    """
    floors: dict[SpanKey, float] = {}
    fresh: dict[SpanKey, int] = {}
    launches: dict[SpanKey, int] = {}
    for work in cost:
        least = work_seconds(peaks, work, dtype)
        if least is not None:
            place = (work.phase, work.part, work.index)
            floors[place] = floors.get(place, 0.0) + least
            fresh[place] = fresh.get(place, 0) + work.fresh_bytes
            launches[place] = launches.get(place, 0) + work.launches
    return {
        place: max(
            floor, move_seconds(peaks, fresh[place]) + launches[place] * peaks.kernel_seconds
        )
        for place, floor in floors.items()
    }


def phase_seconds(peaks: Peaks, cost: Iterable[Cost], dtype: str) -> dict[str, float]:
    """The floor of every phase that does work on the device."""
    floors: dict[str, float] = {}
    for (phase, _, _), least in part_seconds(peaks, cost, dtype).items():
        floors[phase] = floors.get(phase, 0.0) + least
    return floors


def request_seconds(peaks: Peaks, cost: list[Cost], dtype: str, *, eager: bool) -> float | None:
    """The floor of a whole request: of its phases, or, where operators are launched one by one
    (`eager`), of the host that launches them if that is more. Preprocessing and transfer count
    nothing. None if unknown."""
    floors = phase_seconds(peaks, cost, dtype)
    if not floors:
        return None
    host = sum(work.launches for work in cost) * peaks.launch_seconds if eager else 0.0
    return max(sum(floors.values()), host)
