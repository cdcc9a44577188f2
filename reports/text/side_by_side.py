"""Records side by side, aligned by method: two machines, two commits, two models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from .. import units
from ..analysis import caveats
from ..analysis.summary import Row, rows
from ..record.compatibility import differences
from ..record.labels import ran
from ..record.schema import Record
from . import sentences
from .cells import ATTENTION, METHOD
from .screen import Screen
from .table import Column, Table, for_programs
from .table7 import LATENCY, MEASURED, OVER, PROMISED

if TYPE_CHECKING:
    import pandas

Key = tuple[str, str | None, str]
WORK = ("model ", "workload", "request ")
"""Differences that begin so mean that the records did not measure the same work..."""
HOW = ("model backend ", "model dtype ")
"""...but for those that begin so: how the same work was done."""


@dataclass(frozen=True)
class Aligned:
    """A method of several records: the row of each, None where one lacks it."""

    key: Key
    rows: Sequence[Row | None]


@dataclass(frozen=True)
class OfRecord:
    """A method of one of several records; `row` is None where it lacks the method."""

    key: Key
    called: str
    row: Row | None


def names_of(files: Sequence[Path]) -> list[str]:
    """What the records are called: the names of their files, numbered where two are the same. No
    two are the same, and each can be the name of a folder."""
    stems = [file.stem if file.stem.strip(". ") else "record" for file in files]
    taken = {stem for stem in stems if stems.count(stem) == 1}
    names = []
    for index, stem in enumerate(stems):
        called, number = stem, stems[:index].count(stem)
        while stems.count(stem) > 1 and (called in taken or called == stem):
            number += 1
            called = f"{stem} ({number})"
        taken.add(called)
        names.append(called)
    return names


def aligned(tables: Sequence[Sequence[Row]]) -> list[tuple[Key, list[Row | None]]]:
    """The rows of several records by method, attention and the runtime that they really ran under;
    None where one lacks it."""
    by_key = [{_key(row): row for row in reversed(table)} for table in tables]
    keys = dict.fromkeys(_key(row) for table in tables for row in table)
    return [(key, [table.get(key) for table in by_key]) for key in keys]


def warnings(records: Sequence[Record], names: Sequence[str]) -> list[str]:
    """Why the records are not to be compared as they stand, each against the first."""
    found = []
    for record, called in zip(records[1:], names[1:], strict=True):
        if record == records[0]:
            found.append(f"{called} is the same record as {names[0]}: there is nothing to compare.")
            continue
        differs = differences(records[0], record, (names[0], called))
        work = [line for line in differs if _of_work(line)]
        rest = [line for line in differs if line not in work]
        if work:
            found.append(
                f"{called} did not measure the same work as {names[0]}, compare shares and "
                f"speed-ups, not times: {'; '.join(work)}."
            )
        if rest:
            found.append(f"{called} differs from {names[0]}: {'; '.join(rest)}.")
    return found


def same_work(first: Record, other: Record) -> bool:
    """Whether the two measured the same work, so that their times can be compared."""
    return not any(_of_work(line) for line in differences(first, other))


def _of_work(difference: str) -> bool:
    return difference.startswith(WORK) and not difference.startswith(HOW)


def side_by_side_table(
    records: Sequence[Record],
    names: Sequence[str],
    tables: Sequence[Sequence[Row]] | None = None,
    warnings: Sequence[str] | None = None,
) -> Table[Aligned]:
    """One row per method: latency and speed-ups of each record, and the latency of each over the
    first one's where both did the same work. tables, warnings: the rows of each, and what to know
    first, where they are known already."""
    tables = tables or [rows(record) for record in records]
    found = [Aligned(key, listed) for key, listed in aligned(tables)]
    columns = [*_what()]
    for index, called in enumerate(names):
        columns += _of_record(index, called)
    for index, (record, called) in enumerate(zip(records[1:], names[1:], strict=True), 1):
        columns.append(_over_column(index, (names[0], called), same=same_work(records[0], record)))
    return Table(
        columns,
        found,
        all_warnings(records, names) if warnings is None else warnings,
        notes=[FOOTNOTE],
        programs=_long_table(found, names),
        frame=lambda: _framed(records, names),
    )


def all_warnings(records: Sequence[Record], names: Sequence[str]) -> list[str]:
    """What to know of each record, and why they are not to be compared as they stand."""
    own = [
        f"{called}: {warning}"
        for record, called in zip(records, names, strict=True)
        for warning in caveats.warnings(record)
    ]
    return own + warnings(records, names)


def print_records(records: Sequence[Record], names: Sequence[str], screen: Screen) -> None:
    """Print what the records are, why not to compare them, and their table."""
    for record, called in zip(records, names, strict=True):
        line = Text.assemble((called, "bold"), ": ", "; ".join(sentences.header(record)))
        screen.print_line(line, whole=True)
        screen.print_warnings(f"{called}: {warning}" for warning in caveats.warnings(record))
    screen.print_table(side_by_side_table(records, names, warnings=warnings(records, names)))


FOOTNOTE = (
    "over: the median latency over that of the first record; (alike): their 95 % intervals "
    "overlap; n/a where they did not do the same work. The records were "
    "not measured in turn: a ratio holds the drift between them."
)


def ratio(first: Row | None, other: Row | None) -> str:
    """How many times as long the other record took, and whether their intervals overlap."""
    a, b = (row.latency if row else None for row in (first, other))
    if a is None or b is None:
        return units.NA
    times = units.times(b.value / a.value)
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return f"{times} (too few samples)"
    return f"{times} (alike)" if a.low <= b.high and b.low <= a.high else times


def _what() -> list[Column[Aligned]]:
    def method(row: Aligned) -> str:
        name, _, runtime = row.key
        return name if runtime == "eager" else f"{name} ({runtime})"

    return [
        Column("method", method, {}, METHOD, "words"),
        Column("attention", lambda r: r.key[1] or "-", {}, ATTENTION, "words", under="method"),
    ]


def _of_record(index: int, called: str) -> list[Column[Aligned]]:
    """The columns of one record."""

    def of(text: Callable[[Row], str], failed: str = units.NA) -> Callable[[Aligned], str]:
        def tell(aligned_row: Aligned) -> str:
            row = aligned_row.rows[index]
            if row is None:
                return units.NA
            return failed if row.cell.error else text(row)

        return tell

    latency = f"{called}\nlatency ms"
    return [
        Column(latency, of(_latency, "failed"), {}, LATENCY, term="latency ms"),
        Column(
            "speed-up\nmeasured",
            of(lambda r: units.times(r.speedup.value if r.speedup else None)),
            {},
            MEASURED,
            under=latency,
        ),
        Column("promised", of(lambda r: units.times(r.promised)), {}, PROMISED),
        Column(
            "times the\npromised time",
            of(lambda r: units.times(r.over_promise.value if r.over_promise else None)),
            {},
            OVER,
            under="promised",
        ),
    ]


def _over_column(index: int, names: tuple[str, str], *, same: bool) -> Column[Aligned]:
    """The latency of a record over that of the first one."""
    first, called = names
    return Column(
        f"{called}\nover {first}",
        lambda r: ratio(r.rows[0], r.rows[index]) if same else units.NA,
        {},
        "The median latency over that of the first record; (alike): their 95 % intervals overlap.",
        term="over",
        under=f"{called}\nlatency ms",
    )


def _latency(row: Row) -> str:
    median = units.milliseconds(row.latency.value if row.latency else None)
    width = row.latency.precision if row.latency else None
    return median + (f" ±{units.percent(width)}" if width is not None else "")


def _long_table(found: Sequence[Aligned], names: Sequence[str]) -> Table[OfRecord]:
    """One row per method and record, as programs read it."""

    def latency(part: str) -> Callable[[OfRecord], float | None]:
        return lambda r: getattr(r.row.latency, part) if r.row and r.row.latency else None

    columns = [
        for_programs("method", lambda r: r.key[0]),
        for_programs("attention", lambda r: r.key[1]),
        for_programs("runtime", lambda r: r.key[2]),
        for_programs("record", lambda r: r.called),
        for_programs("latency_seconds", latency("value")),
        for_programs("latency_seconds_low", latency("low")),
        for_programs("latency_seconds_high", latency("high")),
        for_programs("speedup", lambda r: r.row.speedup.value if r.row and r.row.speedup else None),
        for_programs("promised", lambda r: r.row.promised if r.row else None),
        for_programs("claimed", lambda r: r.row.claimed if r.row else None),
        for_programs(
            "over_promise",
            lambda r: r.row.over_promise.value if r.row and r.row.over_promise else None,
        ),
    ]
    return Table(
        columns,
        [
            OfRecord(one.key, called, row)
            for one in found
            for called, row in zip(names, one.rows, strict=True)
        ],
    )


def _framed(records: Sequence[Record], names: Sequence[str]) -> pandas.DataFrame:
    import pandas

    framed = [record.frame() for record in records]
    for frame, name in zip(framed, names, strict=True):
        frame.insert(0, "record", name)
    return pandas.concat(framed)


def _key(row: Row) -> Key:
    cell = row.cell
    return cell.method, cell.attention if cell.reads_attention else None, ran(cell)


def label(key: Key) -> str:
    """A method as figures name it."""
    return ", ".join(part for part in key if part and part != "eager")
