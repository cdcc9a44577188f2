"""The explanation of a run on a terminal, as text and as plain values."""

from __future__ import annotations

import difflib
import itertools
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text

from .. import units
from ..analysis import caveats, roofline
from ..analysis.explanation import Contribution, Explained, Explanation, explain_all
from ..analysis.layers import layer_rows
from ..analysis.phases import phase_rows
from ..analysis.summary import baseline, phase
from ..record.base import RecordError
from ..record.labels import name
from ..record.schema import Cell, Record
from . import layers
from .table import as_markdown, as_table
from .terminal import LINE

BAR = 36  # columns of the bars
NOTHING = "No change here is worth 5 % of the request."


def chosen(record: Record, method: str | None) -> Explained:
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
    explained = explain_all(record, wanted)
    if explained.found:
        return explained
    if explained.failed:
        raise RecordError("; ".join(explained.failed))
    if all(cell.name == "vanilla" for cell in wanted):
        raise RecordError("vanilla is what the others are compared with: name another method")
    if not record.complete:
        raise RecordError(
            "no round of it was measured together with vanilla before the run ended: go on with "
            "`tpprof compare ... --resume`"
        )
    raise RecordError(f"{method or 'no method'} was not measured together with vanilla")


def show(
    record: Record, console: Console, method: str | None = None, *, by_layer: bool = False
) -> None:
    """Print what makes the run suspect; of one method the waterfalls, of all a line each and the
    parts side by side; then the roofline. `by_layer`: the decoder layers of each cell, too."""
    explained, said = chosen(record, method), set[str]()
    found = explained.found
    for warning in [*caveats.warnings(record), *explained.failed]:
        console.print(Text(f"! {warning}", style="yellow"), width=LINE)
    for cell, told in found:
        console.print(Text(_headline(cell, told), style="bold"), width=LINE)
        if method is not None:
            headings, lines = texts(told)
            console.print(as_table(headings, [_coloured(line) for line in lines], words=(0, 3, 4)))
        for line in remarks(told):
            if method is not None or line not in said:
                console.print(Text(line), width=LINE)
            said.add(line)
        if by_layer:
            console.print(as_table(*layers.texts(record, cell), words=()))
        if method is not None:
            console.print()
    if len(found) > 1:
        console.print(Text("\nside by side, ms", style="bold"))
        console.print(as_table(*side_by_side(found)))
    _roofline(record, [cell for cell, _ in found], console)
    if method is None:
        console.print(Text("the waterfall of one: tpprof explain RUN.json METHOD", style="dim"))


def markdown(record: Record, method: str | None) -> str:
    """All of it as Markdown."""
    explained = chosen(record, method)
    found = explained.found
    blocks = [f"> {line}\n" for line in [*caveats.warnings(record), *explained.failed]]
    for cell, told in found:
        blocks.append(f"**{_headline(cell, told)}**\n")
        headings, lines = texts(told)
        kept = [0, 1, 2, 4]  # all but the bars
        blocks.append(
            as_markdown([headings[n] for n in kept], [[r[n] for n in kept] for r in lines])
        )
        blocks += [f"- {line}" for line in remarks(told)] + [""]
    headings, lines = roofline_texts(record, [cell for cell, _ in found])
    if lines:
        blocks.append(as_markdown(headings, lines))
    return "\n".join(blocks)


def plain(record: Record, method: str | None = None) -> list[dict[str, Any]]:
    """Each cell with its explanation, and the floors of its phases, in SI units."""
    dtype, peaks = record.model.dtype, record.peaks
    return [
        {
            **_what(cell),
            "promised_seconds": told.promised_seconds,
            "measured_seconds": told.measured_seconds,
            "gap_low_seconds": told.gap_low,
            "gap_high_seconds": told.gap_high,
            "contributions": [_part(part) for part in told.contributions],
            "advice": told.advice,
            "notes": told.notes,
            "floor_seconds": roofline.phase_seconds(peaks, cell.cost, dtype) if peaks else None,
            "layers": [asdict(row) for row in layer_rows(record, cell)],
        }
        for cell, told in chosen(record, method).found
    ]


def flat(record: Record, method: str | None = None) -> list[dict[str, Any]]:
    """One row for the promise, every contribution and the measured time of every cell."""
    rows = []
    for cell, told in chosen(record, method).found:
        ends = [
            Contribution(name="promised", seconds=told.promised_seconds),
            Contribution(name="measured", seconds=told.measured_seconds),
        ]
        for part in (ends[0], *told.contributions, ends[1]):
            rows.append(_what(cell) | _part(part))
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


def texts(told: Explanation) -> tuple[list[str], list[list[str]]]:
    """The waterfall as lines: name, milliseconds, interval, bar, what it is.

    The bars show the gap: their column begins a tenth of it below the lowest level.
    """
    levels = [told.promised_seconds]
    for part in told.contributions:
        levels.append(levels[-1] + part.seconds)
    low, high = min(levels), max(levels)
    start = max(0.0, low - (high - low) / 10)
    scale = BAR / (high - start) if high > start else 0.0

    def bar(begin: float, end: float) -> str:
        return _bar((begin - start) * scale, (end - start) * scale)

    first = bar(start, told.promised_seconds)
    lines = [
        [
            "promised",
            units.milliseconds(told.promised_seconds),
            "",
            first,
            "the share of FLOPs, of vanilla's time",
        ]
    ]
    for part, (begin, end) in zip(told.contributions, itertools.pairwise(levels), strict=True):
        lines.append(
            [
                part.name,
                _signed(part.seconds),
                _interval(part.low, part.high),
                bar(begin, end),
                part.about,
            ]
        )
    lines.append(
        [
            "measured",
            units.milliseconds(told.measured_seconds),
            "",
            bar(start, told.measured_seconds),
            "the clock",
        ]
    )
    return ["", "ms", "95 % interval", "", ""], lines


def roofline_texts(record: Record, cells: list[Cell]) -> tuple[list[str], list[list[str]]]:
    """Phase by phase: measured time, the least that the hardware allows, and the FLOPs promise."""
    headings = [
        "method",
        "phase",
        "measured\nms",
        "promised\nms",
        "floor\nms",
        "measured\nover floor",
    ]
    listed = [id(cell) for cell in (baseline(record, cells[0]), *cells)]
    lines = []
    for row in phase_rows(record):
        if id(row.cell) not in listed or row.floor is None:
            continue
        vanilla = baseline(record, row.cell)
        whole = phase(vanilla, row.phase) if vanilla else None
        full = _flops(vanilla, row.phase) if vanilla else 0
        promised = whole.value * _flops(row.cell, row.phase) / full if whole and full else None
        lines.append(
            [
                name(row.cell),
                row.phase,
                units.milliseconds(row.span.value),
                units.milliseconds(promised),
                units.milliseconds(row.floor),
                units.times(row.over_floor),
            ]
        )
    return headings, lines


def remarks(told: Explanation) -> list[str]:
    """What could not be told apart, and what to do."""
    return [f"! {note}" for note in told.notes] + [f"> {line}" for line in told.advice or [NOTHING]]


def _headline(cell: Cell, told: Explanation) -> str:
    """Promise and clock, and where most of the gap went; or that it is within the noise."""
    gap = told.measured_seconds - told.promised_seconds
    ends = (
        f"{name(cell)}: promised {units.milliseconds(told.promised_seconds)} ms, measured "
        f"{units.milliseconds(told.measured_seconds)} ms"
    )
    if told.gap_low is not None and told.gap_high is not None and told.gap_low < 0 < told.gap_high:
        return (
            f"{ends}: within the noise of this run ({_interval(told.gap_low, told.gap_high)} ms)."
        )
    most = (max if gap > 0 else min)(told.contributions, key=lambda part: part.seconds)
    way = "slower" if gap > 0 else "faster"
    return (
        f"{ends}: {units.milliseconds(abs(gap))} ms {way} than promised, most of all by "
        f"{most.name} ({_signed(most.seconds)} ms)."
    )


def _roofline(record: Record, cells: list[Cell], console: Console) -> None:
    headings, lines = roofline_texts(record, cells)
    if record.peaks is None or not lines:
        told = "no roofline: the device was not calibrated when this was measured"
        console.print(Text(f"{told} (`tpprof calibrate`).", style="dim"))
        return
    title = f"against the roofline of {record.peaks.device} ({record.peaks.source})"
    console.print(Text(title, style="bold"))
    console.print(as_table(headings, lines, words=(0, 1)))


def _coloured(line: list[str]) -> list[str | Text]:
    """The bar in the colour of what it does: red adds time, green saves it."""
    style = {"+": "red", "-": "green"}.get(line[1][:1], "bold")
    return [*line[:3], Text(line[3], style=style), line[4]]


def _bar(begin: float, end: float) -> str:
    """A bar between two columns: full blocks for what is added, light ones for what is saved; a
    hairline for what is less than half a column."""
    low, high = sorted((round(begin), round(end)))
    if low == high:
        mark = "" if abs(end - begin) < 0.05 else "▏"
        return (" " * min(low, BAR - 1) + mark).ljust(BAR)
    return (" " * low + ("█" if end >= begin else "░") * (high - low)).ljust(BAR)


def _flops(cell: Cell, label: str) -> int:
    return sum(work.flops for work in cell.cost if work.phase == label)


def _what(cell: Cell) -> dict[str, Any]:
    policy = cell.attention if cell.reads_attention else None
    return {"method": cell.method, "attention": policy, "runtime": cell.runtime}


def _part(part: Contribution) -> dict[str, Any]:
    return {
        "part": part.name,
        "seconds": part.seconds,
        "low_seconds": part.low,
        "high_seconds": part.high,
        "about": part.about,
    }


def _signed(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return ("+" if seconds >= 0 else "-") + units.milliseconds(abs(seconds))


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{_signed(low)} to {_signed(high)}"
