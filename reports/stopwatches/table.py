"""The field's stopwatches beside ours, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from .. import units
from ..analysis.intervals import Estimate
from ..record.schema import Cell, Record
from ..text.cells import attention_column, ends, method_column, over_text, time_column
from ..text.table import Column, Table
from ..text.table7 import LATENCY, MEASURED
from .known import FieldStopwatch
from .readings import StopwatchReading, readings

SAYS = (
    "What the stopwatch would have said of the same requests: the parts between its clicks, and "
    "its own mean. 0 where nothing lies between them."
)


def stopwatches_table(record: Record, watches: Sequence[FieldStopwatch]) -> Table[StopwatchReading]:
    """One row for each measured cell under each stopwatch; what each times stands below."""
    return Table(
        [
            Column(
                "stopwatch",
                lambda r: r.watch.name,
                {"stopwatch": lambda r: r.watch.name, "whose": lambda r: r.watch.whose},
                "Whose stopwatch it is.",
                "words",
            ),
            method_column(_cell),
            attention_column(_cell),
            Column(
                "it says\nms",
                lambda r: units.milliseconds(r.seconds),
                {"stopwatch_seconds": lambda r: r.seconds, "reason": lambda r: r.reason or None},
                SAYS,
                term="it says",
            ),
            Column(
                "its\nspeed-up",
                lambda r: units.times(r.speedup),
                {"stopwatch_speedup": lambda r: r.speedup},
                "Vanilla's figure over the method's, as it would be printed: without an interval.",
            ),
            Column(
                "left out\nof the request",
                lambda r: units.percent(r.outside, 0),
                {"outside": lambda r: r.outside},
                "The share of the requests' time that lies outside of its clicks.",
            ),
            time_column("latency\nms", "latency_seconds", lambda r: r.latency, LATENCY),
            Column(
                "speed-up\nmeasured",
                lambda r: over_text(r.gain) if r.cell.name != "vanilla" else _times(r.gain),
                ends("speedup", lambda r: r.gain),
                MEASURED,
            ),
        ],
        readings(record, watches),
        notes=[note for watch in watches for note in _notes(watch)],
        frame=record.frame,
    )


def _notes(watch: FieldStopwatch) -> list[str]:
    """What a stopwatch times, what is wrong with it, and what of it is not in the figure."""
    if not watch.fault:
        return []
    line = f"{watch.name} ({watch.whose}) times {watch.times}: {watch.fault}."
    return [line + (f" Not in the figure: {watch.besides}." if watch.besides else "")]


def _times(gain: Estimate | None) -> str:
    return units.times(gain.value if gain is not None else None)


def _cell(row: StopwatchReading) -> Cell:
    return row.cell
