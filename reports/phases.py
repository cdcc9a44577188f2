"""Phase by phase: what it took, what the host asked for, and whether the device was busy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from . import roofline, units
from .names import name, runtime
from .record import Activity, Cell, Record
from .statistics import Estimate, median
from .summary import by_round, phase

HOST_BOUND = 0.7  # busy for less of a phase than this: the device waits for the host
HEADINGS = (
    "method", "attention", "runtime", "phase", "span\nms", "host\nms", "GPU busy\nms", "busy",
    "launches", "syncs", "operators", "floor\nms", "over\nfloor",
)  # fmt: skip


@dataclass(frozen=True)
class PhaseRow:
    """One phase of one cell.

    span: seconds from its first to its last event. host: seconds until the host had queued it
    (None on a CPU, where it is the span). busy: seconds in which the device ran something, and its
    counts, from a pass of its own with torch.profiler; None where not known. floor: the least
    seconds that the hardware allows (see roofline); None on a device that was not calibrated.
    """

    cell: Cell
    phase: str
    span: Estimate
    host: Estimate | None
    activity: Activity | None
    floor: float | None

    @property
    def over_floor(self) -> float | None:
        """How many times its floor the span is; below 1, the floor is wrong."""
        return self.span.value / self.floor if self.floor else None

    @property
    def busy_share(self) -> float | None:
        """GPU-busy time over the span."""
        busy = self.activity.busy_seconds if self.activity else None
        return None if busy is None else busy / self.span.value


def phase_rows(record: Record) -> list[PhaseRow]:
    """One row for every phase of every measured cell, in the order in which they run."""
    return [row for cell in record.cells for row in of_cell(record, cell)]


def texts(record: Record) -> tuple[list[str], list[list[str]]]:
    """Headings, and one line per row; columns of which nothing is known are left out."""
    listed = lines(phase_rows(record))
    known = [n for n in range(len(HEADINGS)) if any(line[n] != units.NA for line in listed)]
    return [HEADINGS[n] for n in known], [[line[n] for n in known] for line in listed]


def lines(listed: Iterable[PhaseRow]) -> list[list[str]]:
    """The rows as texts."""
    return [_line(row) for row in listed]


def plain(record: Record) -> list[dict[str, Any]]:
    """The rows as plain values in SI units."""
    return [_plain(row) for row in phase_rows(record)]


def host_bound(record: Record) -> str:
    """Which phases of vanilla leave the GPU waiting for the host; empty where none or unknown."""
    waiting = [
        f"{row.phase} (busy for {units.percent(row.busy_share, 0)} of it)"
        for cell in record.cells[:1]
        for row in of_cell(record, cell)
        if row.phase in ("vision", "prefill", "decode")
        if row.busy_share is not None and row.busy_share < HOST_BOUND
    ]
    if not waiting:
        return ""
    return (
        f"In {name(record.cells[0])} the GPU waits for the host in {' and '.join(waiting)}: fewer "
        "tokens make it wait longer, not finish sooner."
    )


def of_cell(record: Record, cell: Cell) -> list[PhaseRow]:
    """One row for every phase of a measured cell."""
    floors = {}
    if record.peaks is not None:
        floors = roofline.phase_seconds(record.peaks, cell.cost, record.model.dtype)
    found = []
    for label in dict.fromkeys(part.phase for part in cell.parts):
        span = phase(cell, label)
        if span is None:
            continue
        host = None
        if all(label in sample.host for sample in cell.samples):
            host = median(list(by_round(cell, _host(label)).values()))
        counted = activity(cell, label)
        found.append(PhaseRow(cell, label, span, host, counted, floors.get(label)))
    return found


def activity(cell: Cell, label: str) -> Activity | None:
    """The activity of a whole phase: the sum over its parts; None where none was counted."""
    parts = [part for part in cell.activity if part.phase == label]
    if not parts:
        return None
    whole = Activity(phase=label, part="", index=None, operators=sum(p.operators for p in parts))
    for field in ("launches", "kernels", "syncs", "busy_seconds"):
        values = [getattr(part, field) for part in parts]
        if None not in values:
            setattr(whole, field, sum(values))
    return whole


def _host(label: str) -> Callable[[Any], float]:
    return lambda sample: float(sample.host[label])


def _line(row: PhaseRow) -> list[str]:
    cell, activity = row.cell, row.activity
    counts = (activity.launches, activity.syncs, activity.operators) if activity else (None,) * 3
    return [
        cell.method,
        cell.attention if cell.reads_attention else "-",
        runtime(cell),
        row.phase,
        units.milliseconds(row.span.value),
        units.milliseconds(row.host.value if row.host else None),
        units.milliseconds(activity.busy_seconds if activity else None),
        units.percent(row.busy_share, 0),
        *(units.NA if count is None else f"{count:,}" for count in counts),
        units.milliseconds(row.floor),
        units.times(row.over_floor),
    ]


def _plain(row: PhaseRow) -> dict[str, Any]:
    cell, activity = row.cell, row.activity
    return {
        "method": cell.method,
        "attention": cell.attention if cell.reads_attention else None,
        "runtime": cell.runtime,
        "fallback": cell.fallback or None,
        "phase": row.phase,
        "span_seconds": row.span.value,
        "host_seconds": row.host.value if row.host else None,
        "busy_seconds": activity.busy_seconds if activity else None,
        "launches": activity.launches if activity else None,
        "kernels": activity.kernels if activity else None,
        "syncs": activity.syncs if activity else None,
        "operators": activity.operators if activity else None,
        "floor_seconds": row.floor,
    }
