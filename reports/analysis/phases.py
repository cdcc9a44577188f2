"""Phase by phase: what it took, what the host asked for, and whether the device was busy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .. import units
from ..record.labels import name
from ..record.schema import Activity, Cell, Record
from . import roofline
from .by_round import by_round, phase
from .intervals import Estimate, median_interval

HOST_BOUND = 0.7  # busy for less of a phase than this: the device waits for the host


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
            host = median_interval(list(by_round(cell, _host(label)).values()))
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
