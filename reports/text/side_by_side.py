"""Records side by side, aligned by method: two machines, two commits, two models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from .. import units
from ..analysis import caveats
from ..analysis.summary import Row, rows
from ..record.compatibility import differences
from ..record.labels import ran
from ..record.schema import Record
from . import sentences
from .table import as_table
from .terminal import LINE

Key = tuple[str, str | None, str]
WORK = ("model ", "workload", "request ")
"""Differences that begin so mean that the records did not measure the same work..."""
HOW = ("model backend ", "model dtype ")
"""...but for those that begin so: how the same work was done."""


def names_of(files: Sequence[Path]) -> list[str]:
    """What the records are called: the names of their files, numbered where two are the same. No
    two are the same, and each can be the name of a folder."""
    stems = [file.stem if file.stem.strip(". ") else "record" for file in files]
    taken = {stem for stem in stems if stems.count(stem) == 1}
    names = []
    for place, stem in enumerate(stems):
        called, number = stem, stems[:place].count(stem)
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


def texts(
    records: Sequence[Record], names: Sequence[str], tables: Sequence[Sequence[Row]] | None = None
) -> tuple[list[str], list[list[str]]]:
    """Headings, and one line per method: latency and speed-ups of each record, and the latency of
    each over the first one's where both did the same work. tables: the rows of each, where they
    are known already."""
    tables = tables or [rows(record) for record in records]
    alike = [same_work(records[0], record) for record in records[1:]]
    headings = ["method", "attention"]
    for called in names:
        headings += [f"{called}\nlatency ms", "speed-up\nmeasured", "promised", "realised"]
    headings += [f"{called}\nover {names[0]}" for called in names[1:]]
    lines = []
    for (method, attention, runtime), found in aligned(tables):
        line = [method if runtime == "eager" else f"{method} ({runtime})", attention or "-"]
        for row in found:
            line += _numbers(row)
        line += [
            ratio(found[0], row) if same else units.NA
            for row, same in zip(found[1:], alike, strict=True)
        ]
        lines.append(line)
    return headings, lines


def plain(records: Sequence[Record], names: Sequence[str]) -> list[dict[str, Any]]:
    """The comparison as plain values in SI units, one mapping per method and record."""
    lines = []
    for (method, attention, runtime), found in aligned([rows(record) for record in records]):
        for called, row in zip(names, found, strict=True):
            latency, gain = (row.latency, row.speedup) if row else (None, None)
            lines.append(
                {
                    "method": method,
                    "attention": attention,
                    "runtime": runtime,
                    "record": called,
                    "latency_seconds": latency.value if latency else None,
                    "latency_seconds_low": latency.low if latency else None,
                    "latency_seconds_high": latency.high if latency else None,
                    "speedup": gain.value if gain else None,
                    "promised": row.promised if row else None,
                    "realised": row.realised if row else None,
                }
            )
    return lines


def show(records: Sequence[Record], names: Sequence[str], console: Console) -> None:
    """Print what the records are, why not to compare them, and their table."""
    for record, called in zip(records, names, strict=True):
        console.print(Text.assemble((called, "bold"), ": ", "; ".join(sentences.header(record))))
        for warning in caveats.warnings(record):
            console.print(Text(f"! {called}: {warning}", style="yellow"), width=LINE)
    for warning in warnings(records, names):
        console.print(Text(f"! {warning}", style="yellow"), width=LINE)
    headings, lines = texts(records, names)
    console.print(as_table(headings, lines, words=range(2)))
    console.print(Text(FOOTNOTE, style="dim"), width=LINE)


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


def _numbers(row: Row | None) -> list[str]:
    if row is None:
        return [units.NA] * 4
    if row.cell.error:
        return ["failed", *[units.NA] * 3]
    return [
        units.milliseconds(row.latency.value if row.latency else None)
        + (f" ±{units.percent(row.precision)}" if row.precision is not None else ""),
        units.times(row.speedup.value if row.speedup else None),
        units.times(row.promised),
        units.percent(row.realised, 0),
    ]


def _key(row: Row) -> Key:
    cell = row.cell
    return cell.method, cell.attention if cell.reads_attention else None, ran(cell)


def label(key: Key) -> str:
    """A method as figures name it."""
    return ", ".join(part for part in key if part and part != "eager")
