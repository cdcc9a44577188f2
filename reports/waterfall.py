"""The explanation of a run on a terminal, as text and as plain rows: one waterfall a cell."""

from __future__ import annotations

import difflib
import itertools
from typing import Any

from rich.console import Console
from rich.text import Text

from . import units
from .explain import explain
from .formats import as_table
from .names import name
from .phases import phase_rows
from .record import Cell, Explanation, Record, RecordError
from .summary import baseline, phase
from .terminal import LINE

BAR = 36  # columns of the widest bar


def chosen(record: Record, method: str | None) -> list[tuple[Cell, Explanation]]:
    """The cells of `method` (its name, or its whole spec), or all, with their explanations.

    Raises RecordError for a method that the record does not hold, or where there is nothing to
    explain.
    """
    wanted = [c for c in record.cells if method in (None, c.method, c.name)]
    if not wanted:
        known = list(dict.fromkeys(cell.name for cell in record.cells))
        near = difflib.get_close_matches(method or "", known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise RecordError(f"no {method!r} in this record; it holds {', '.join(known)}{hint}")
    found = [(cell, told) for cell in wanted if (told := explain(record, cell)) is not None]
    if not found:
        raise RecordError(
            f"nothing to explain: {method or 'the record'} has no measured cell beside a measured "
            "vanilla; vanilla itself is what the others are compared with"
        )
    return found


def show(record: Record, console: Console, method: str | None = None) -> None:
    """Print what was promised, what was measured and where the rest went, cell by cell; then all
    cells side by side, and the roofline."""
    found = chosen(record, method)
    for cell, told in found:
        _waterfall(cell, told, console)
    if len(found) > 1:
        console.print(Text("side by side, ms", style="bold"))
        headings, lines = side_by_side(found)
        console.print(as_table(headings, lines))
    _roofline(record, [cell for cell, _ in found], console)


def plain(record: Record, method: str | None = None) -> list[dict[str, Any]]:
    """One row for every contribution of every cell, in SI units."""
    rows = []
    for cell, told in chosen(record, method):
        what = {"method": cell.method, "attention": _policy(cell), "runtime": cell.runtime}
        ends = {
            "promised_seconds": told.promised_seconds,
            "measured_seconds": told.measured_seconds,
        }
        for part in told.contributions:
            rows.append(what | ends | {
                "contribution": part.name, "seconds": part.seconds, "low_seconds": part.low,
                "high_seconds": part.high, "about": part.about,
            })  # fmt: skip
    return rows


def side_by_side(found: list[tuple[Cell, Explanation]]) -> tuple[list[str], list[list[str]]]:
    """Contributions as lines, cells as columns; milliseconds."""
    names = list(dict.fromkeys(part.name for _, told in found for part in told.contributions))
    names.sort(key="remainder".__eq__)  # last; the others as they come
    by_cell = [{part.name: part.seconds for part in told.contributions} for _, told in found]
    lines = [["promised", *(units.milliseconds(told.promised_seconds) for _, told in found)]]
    lines += [[f"  {line}", *(_signed(parts.get(line)) for parts in by_cell)] for line in names]
    lines += [["measured", *(units.milliseconds(told.measured_seconds) for _, told in found)]]
    return ["", *(name(cell).replace(" with ", "\n") for cell, _ in found)], lines


def _waterfall(cell: Cell, told: Explanation, console: Console) -> None:
    gap = told.measured_seconds - told.promised_seconds
    most = max(told.contributions, key=lambda part: part.seconds)
    console.print(
        Text.assemble(
            (name(cell), "bold"),
            f": promised {units.milliseconds(told.promised_seconds)} ms, measured "
            f"{units.milliseconds(told.measured_seconds)} ms. Where {units.milliseconds(gap)} ms "
            f"went, most of all to {most.name} ({_signed(most.seconds)} ms):",
        ),
        width=LINE,
    )
    headings, lines = texts(told)
    console.print(as_table(headings, [_coloured(line) for line in lines], words=(0, 3, 4)))
    for note in told.notes:
        console.print(Text(f"! {note}", style="yellow"), width=LINE)
    for sentence in told.advice:
        console.print(Text(f"> {sentence}"), width=LINE)
    console.print()


def _coloured(line: list[str]) -> list[str | Text]:
    """The bar in the colour of what it does: red adds time, green saves it."""
    style = {"+": "red", "-": "green"}.get(line[1][:1], "bold")
    return [*line[:3], Text(line[3], style=style), line[4]]


def texts(told: Explanation) -> tuple[list[str], list[list[str]]]:
    """The waterfall as lines: name, milliseconds, interval, bar, what it is."""
    levels = [told.promised_seconds]
    for part in told.contributions:
        levels.append(levels[-1] + part.seconds)
    scale = BAR / max(*levels, told.measured_seconds)

    def whole(label: str, seconds: float, about: str) -> list[str]:
        return [label, units.milliseconds(seconds), "", _bar(0, seconds, scale), about]

    lines = [whole("promised", told.promised_seconds, "the share of FLOPs, of vanilla's time")]
    for part, (start, stop) in zip(told.contributions, itertools.pairwise(levels), strict=True):
        interval = _interval(part.low, part.high)
        bar = _bar(start, stop, scale)
        lines.append([part.name, _signed(part.seconds), interval, bar, part.about])
    lines.append(whole("measured", told.measured_seconds, "the clock"))
    return ["", "ms", "95 % interval", "", ""], lines


def _bar(start: float, stop: float, scale: float) -> str:
    """A bar between two times: full blocks for what is added, light ones for what is saved."""
    low, high = sorted((round(start * scale), round(stop * scale)))
    mark = "█" if stop >= start else "░"
    return (" " * max(low, 0) + mark * max(high - max(low, 0), 0)).ljust(BAR)


def _roofline(record: Record, cells: list[Cell], console: Console) -> None:
    headings, lines = roofline_texts(record, cells)
    if not lines:
        console.print(
            Text("no roofline: this device was not calibrated (`tpprof calibrate`).", style="dim")
        )
        return
    peaks = record.peaks
    assert peaks is not None
    console.print(Text(f"against the roofline of {peaks.device} ({peaks.source})", style="bold"))
    console.print(as_table(headings, lines, words=(0, 1)))


def roofline_texts(record: Record, cells: list[Cell]) -> tuple[list[str], list[list[str]]]:
    """Phase by phase: measured time, the least that the hardware allows, and the FLOPs promise."""
    headings = ["method", "phase", "measured\nms", "promised\nms", "floor\nms",
                "measured\nover floor"]  # fmt: skip
    listed = [id(cell) for cell in (baseline(record, cells[0]), *cells)]
    lines = []
    for row in phase_rows(record):
        if id(row.cell) not in listed or row.floor is None:
            continue
        vanilla = baseline(record, row.cell)
        whole = phase(vanilla, row.phase) if vanilla else None
        full = _flops(vanilla, row.phase) if vanilla else 0
        promised = whole.value * _flops(row.cell, row.phase) / full if whole and full else None
        lines.append([
            name(row.cell), row.phase, units.milliseconds(row.span.value),
            units.milliseconds(promised), units.milliseconds(row.floor),
            units.times(row.over_floor),
        ])  # fmt: skip
    return headings, lines


def _flops(cell: Cell, label: str) -> int:
    return sum(work.flops for work in cell.cost if work.phase == label)


def _policy(cell: Cell) -> str | None:
    return cell.attention if cell.reads_attention else None


def _signed(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return ("+" if seconds >= 0 else "-") + units.milliseconds(abs(seconds))


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{_signed(low)} to {_signed(high)}"
