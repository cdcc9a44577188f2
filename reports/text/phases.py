"""The table of phases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from .. import units
from ..analysis import caveats
from ..analysis.phases import PhaseRow, phase_rows
from ..record.schema import Activity, Cell, Record
from .cells import attention_column, method_column, runtime_column
from .table import Column, RowT, Table, for_programs

FLOOR = (
    "The least time that the device allows: over all operators the greater of FLOPs over peak and "
    "bytes over bandwidth, and a fixed time for each launch."
)


def phases_table(
    record: Record, listed: Sequence[PhaseRow] | None = None, warnings: Sequence[str] | None = None
) -> Table[PhaseRow]:
    """One row for every phase of every measured cell, or those that are `listed`. warnings: of the
    record, where they are known already."""
    return Table(
        columns(),
        phase_rows(record) if listed is None else listed,
        caveats.warnings(record) if warnings is None else warnings,
        frame=record.frame,
    )


def columns() -> list[Column[PhaseRow]]:
    """The columns of the table of phases."""
    return [*_what(), *_times(), *_counts(), *_floors()]


def phase_column(of: Callable[[RowT], PhaseRow], *, under: str = "") -> Column[RowT]:
    return Column(
        "phase",
        lambda row: of(row).phase,
        {"phase": lambda row: of(row).phase},
        "What a request goes through, from preprocess to decode.",
        "words",
        under=under,
    )


def floor_column(of: Callable[[RowT], PhaseRow]) -> Column[RowT]:
    return Column(
        "floor\nms",
        lambda row: units.milliseconds(of(row).floor),
        {"floor_seconds": lambda row: of(row).floor},
        FLOOR,
        optional=True,
    )


def _what() -> list[Column[PhaseRow]]:
    return [
        method_column(_cell),
        attention_column(_cell),
        replace(runtime_column(_cell), under=""),
        phase_column(_itself, under="runtime"),
    ]


def _times() -> list[Column[PhaseRow]]:
    return [
        Column(
            "span\nms",
            lambda r: units.milliseconds(r.span.value),
            {"span_seconds": lambda r: r.span.value},
            "From the first event of a phase to its last: the median over rounds.",
        ),
        Column(
            "host\nms",
            lambda r: units.milliseconds(r.host.value if r.host else None),
            {"host_seconds": lambda r: r.host.value if r.host else None},
            "Until the host had queued the phase; on a CPU that is the span.",
            optional=True,
            under="span\nms",
        ),
        Column(
            "GPU busy\nms",
            lambda r: units.milliseconds(r.activity.busy_seconds if r.activity else None),
            {"busy_seconds": lambda r: r.activity.busy_seconds if r.activity else None},
            "Time in which kernels or copies ran.",
            optional=True,
        ),
        Column(
            "busy",
            lambda r: units.percent(r.busy_share, 0),
            {},
            "GPU-busy time over the span of the phase.",
            optional=True,
            under="GPU busy\nms",
        ),
    ]


def _counts() -> list[Column[PhaseRow]]:
    launches, kernels = _count("launches"), _count("kernels")
    syncs, operators = _count("syncs"), _count("operators")
    return [
        Column(
            "launches",
            lambda r: _text(launches(r)),
            {"launches": launches},
            "Kernel and graph launches of the GPU.",
            optional=True,
        ),
        for_programs("kernels", kernels),
        Column(
            "syncs",
            lambda r: _text(syncs(r)),
            {"syncs": syncs},
            "Calls that made the host wait for the device.",
            optional=True,
            under="launches",
        ),
        Column(
            "operators",
            lambda r: _text(operators(r)),
            {"operators": operators},
            "Outermost torch operators that the host called.",
            optional=True,
        ),
    ]


def _floors() -> list[Column[PhaseRow]]:
    return [
        floor_column(_itself),
        Column(
            "over\nfloor",
            lambda r: units.times(r.over_floor),
            {},
            "How many times its floor the span is.",
            optional=True,
            under="floor\nms",
        ),
    ]


def _itself(row: PhaseRow) -> PhaseRow:
    return row


def _cell(row: PhaseRow) -> Cell:
    return row.cell


def _count(name: str) -> Callable[[PhaseRow], int | None]:
    def count(row: PhaseRow) -> int | None:
        activity: Activity | None = row.activity
        found: int | None = getattr(activity, name) if activity else None
        return found

    return count


def _text(count: int | None) -> str:
    return units.NA if count is None else f"{count:,}"
