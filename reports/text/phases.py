"""The table of phases."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .. import units
from ..analysis.phases import PhaseRow, phase_rows
from ..record.labels import runtime
from ..record.schema import Record

HEADINGS = (
    "method",
    "attention",
    "runtime",
    "phase",
    "span\nms",
    "host\nms",
    "GPU busy\nms",
    "busy",
    "launches",
    "syncs",
    "operators",
    "floor\nms",
    "over\nfloor",
)


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
