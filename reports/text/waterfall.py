"""The explanation of a run on a terminal, as text and as plain values."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from .. import units
from ..analysis import caveats, roofline
from ..analysis.advice import untold
from ..analysis.by_round import baseline
from ..analysis.explanation import (
    CAUSES,
    ENDS,
    STEPS,
    Contribution,
    Explanation,
    Explanations,
    explain_all,
)
from ..analysis.phases import PhaseRow, phase_rows
from ..analysis.promise import promised_seconds
from ..record.base import RecordError
from ..record.labels import name
from ..record.schema import Cell, Record
from ..sanitize import for_markdown
from .cells import CELL, METHOD, attention_column, method_column, over_text
from .layers import layers_table
from .phases import floor_column, phase_column
from .screen import Screen
from .sentences import bounds
from .table import Column, RowT, Table, Tone, for_programs

BAR = 36  # columns of the bars
TOO_FEW = "Too few rounds to advise: of a part without an interval nothing is sure."
NOTHING = "No change here is worth 5 % of the request."
UNTOLD = "What a change here is worth cannot be told from a split that is not trusted."
PROMISED = "Vanilla's time of it, cut as its FLOPs are; in prefill layer by layer."
Explained = tuple[Cell, Explanation]


@dataclass(frozen=True)
class Step:
    """A step of a waterfall: a level (the claim, the promise, the clock), or what a cause adds.
    bar: as it is drawn."""

    cell: Cell
    part: Contribution
    bar: str

    @property
    def is_end(self) -> bool:
        return self.part.name in ENDS


@dataclass(frozen=True)
class Cause:
    """A line of several waterfalls side by side: seconds of each, None where it has no such
    cause."""

    name: str
    seconds: Sequence[float | None]

    @property
    def is_end(self) -> bool:
        return self.name in ENDS


@dataclass(frozen=True)
class Floored:
    """A phase, and the time that its share of vanilla's FLOPs promises, in seconds."""

    row: PhaseRow
    promised: float | None


def chosen(record: Record, method: str | None) -> Explanations:
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
    if all(cell.name == "vanilla" or cell.callable for cell in wanted):
        raise RecordError(
            f"{method or 'all that was measured'} is a callable: what FLOPs promise needs the "
            "engine's formulas, which know none; `tpprof report FILE --phases` shows where the "
            "time went"
        )
    if not record.complete:
        raise RecordError(
            "no round of it was measured together with vanilla before the run ended: go on with "
            "`tpprof compare ... --resume`"
        )
    raise RecordError(f"{method or 'no method'} was not measured together with vanilla")


def print_explanations(
    record: Record, screen: Screen, method: str | None = None, *, by_layer: bool = False
) -> None:
    """Print what makes the run suspect; of one method the waterfalls, of all a line each and the
    parts side by side; then the roofline. `by_layer`: the decoder layers of each cell, too."""
    explanations, said = chosen(record, method), set[str]()
    found = explanations.found
    screen.print_warnings([*caveats.warnings(record), *explanations.failed])
    for line in bounds(record):
        screen.print_line(line)
    for cell, explanation in found:
        screen.print_line(headline(cell, explanation), "bold")
        if method is not None:
            screen.print_grid(explanation_table([(cell, explanation)]))
            for line in decisions(cell):
                screen.print_line(line)
        for line in remarks(explanation):
            if method is not None or line not in said:
                screen.print_line(line)
            said.add(line)
        if by_layer:
            screen.print_grid(layers_table(record, cell))
        if method is not None:
            screen.print_line()
    if len(found) > 1:
        screen.print_line()
        screen.print_line("side by side, ms", "bold")
        screen.print_grid(causes_table(found))
    _print_roofline(record, [cell for cell, _ in found], screen)
    if method is None:
        screen.print_line("the waterfall of one: tpprof explain RUN.json METHOD", "dim")


def as_markdown(record: Record, method: str | None) -> str:
    """All of it as Markdown."""
    explanations = chosen(record, method)
    found = explanations.found
    warnings = [*caveats.warnings(record), *explanations.failed]
    blocks = [f"> {for_markdown(warning)}\n" for warning in warnings]
    blocks += [f"{for_markdown(line)}\n" for line in bounds(record)]
    for cell, explanation in found:
        blocks.append(f"**{for_markdown(headline(cell, explanation))}**\n")
        blocks.append(explanation_table([(cell, explanation)]).to_markdown())
        said = [*decisions(cell), *remarks(explanation)]
        blocks += [f"- {for_markdown(line)}" for line in said] + [""]
    against = roofline_table(record, [cell for cell, _ in found])
    if against.rows:
        blocks.append(against.to_markdown())
    return "\n".join(blocks)


def explanation_table(found: Sequence[Explained]) -> Table[Step]:
    """The waterfall of each cell, from its claim to the clock."""
    parts = [
        Column(
            "",
            lambda r: r.part.name,
            {"part": lambda r: r.part.name},
            kind="words",
        ),
        Column(
            "ms",
            lambda r: (units.milliseconds if r.is_end else _signed)(r.part.seconds),
            {"seconds": lambda r: r.part.seconds},
        ),
        Column(
            "95 % interval",
            lambda r: _interval(r.part.low, r.part.high),
            {"low_seconds": lambda r: r.part.low, "high_seconds": lambda r: r.part.high},
        ),
        Column("", lambda r: r.bar, kind="drawing", term="bars", wide=True, tone=_tone),
        Column("", lambda r: r.part.about, {"about": lambda r: r.part.about}, kind="words"),
    ]
    named: list[Column[Step]] = _unseen(lambda r: r.cell)
    return Table(
        [*named, *parts], [step for cell, explanation in found for step in steps(cell, explanation)]
    )


def steps(cell: Cell, explanation: Explanation) -> list[Step]:
    """The steps of one waterfall. The bars show the gaps: their column begins a tenth of them below
    the lowest level."""
    reached = [
        level
        for parts, begin in (
            (explanation.steps, explanation.claimed_seconds),
            (explanation.causes, explanation.promised_seconds),
        )
        for level in itertools.accumulate((part.seconds for part in parts), initial=begin)
    ]
    low, high = min(reached), max(reached)
    start = max(0.0, low - (high - low) / 10)
    scale = BAR / (high - start) if high > start else 0.0

    def step(part: Contribution, begin: float, end: float) -> Step:
        return Step(cell, part, _bar((begin - start) * scale, (end - start) * scale))

    found, level = list[Step](), start
    for part in explanation.walk():
        begin = start if part.name in ENDS else level
        level = part.seconds if part.name in ENDS else level + part.seconds
        found.append(step(part, begin, level))
    return found


def causes_table(found: Sequence[Explained]) -> Table[Cause]:
    """Causes as rows, cells as columns; milliseconds."""
    by_cell = [{part.name: part.seconds for part in explanation.walk()} for _, explanation in found]
    listed = (*STEPS, "promised", *CAUSES)
    told = [name for name in listed if any(name in parts for parts in by_cell)]
    rows = [
        Cause(name, [parts.get(name) for parts in by_cell])
        for name in ("claimed", *told, "measured")
    ]
    causes = Column[Cause]("", lambda r: r.name if r.is_end else f"  {r.name}", kind="words")
    return Table([causes, *(_cause_column(n, cell) for n, (cell, _) in enumerate(found))], rows)


def _cause_column(index: int, cell: Cell) -> Column[Cause]:
    def text(row: Cause) -> str:
        seconds = row.seconds[index]
        return units.milliseconds(seconds) if row.is_end else _signed(seconds)

    values = {name(cell): lambda r: r.seconds[index]}
    return Column(name(cell).replace(" with ", "\n"), text, values, CELL, term="cell")


def explanations_table(record: Record, found: Sequence[Explained]) -> Table[Explained]:
    """Each cell with its explanation, its layers and the floors of its phases, for programs."""
    dtype, peaks = record.model.dtype, record.peaks
    named: list[Column[Explained]] = _unseen(lambda r: r[0])

    def parts(row: Explained) -> list[dict[str, object]]:
        keys = ("part", "seconds", "low_seconds", "high_seconds", "about")
        told = [part for part in explanation_table([row]).to_values() if part["part"] not in ENDS]
        return [{key: part[key] for key in keys} for part in told]

    def floors(row: Explained) -> dict[str, float] | None:
        return roofline.phase_seconds(peaks, row[0].cost, dtype) if peaks else None

    return Table(
        [
            *named,
            for_programs("claimed_seconds", lambda r: r[1].claimed_seconds),
            for_programs("promised_seconds", lambda r: r[1].promised_seconds),
            for_programs("measured_seconds", lambda r: r[1].measured_seconds),
            for_programs("over_promise", lambda r: r[1].over_promise.value),
            for_programs("over_promise_low", lambda r: r[1].over_promise.low),
            for_programs("over_promise_high", lambda r: r[1].over_promise.high),
            for_programs("contributions", parts),
            for_programs("advice", lambda r: r[1].advice),
            for_programs("notes", lambda r: r[1].notes),
            for_programs("floor_seconds", floors),
            for_programs("layers", lambda r: layers_table(record, r[0]).to_values()),
        ],
        found,
    )


def roofline_table(record: Record, cells: list[Cell]) -> Table[Floored]:
    """Phase by phase: measured time, the least that the hardware allows, and the FLOPs promise."""
    listed = [id(cell) for cell in (baseline(record, cells[0]), *cells)]
    rows = [
        Floored(row, _promised(record, row))
        for row in phase_rows(record)
        if id(row.cell) in listed and row.floor is not None
    ]
    return Table(
        [
            Column("method", lambda r: name(r.row.cell), {}, METHOD, "words"),
            phase_column(_phase_row),
            Column(
                "measured\nms",
                lambda r: units.milliseconds(r.row.span.value),
                {"span_seconds": lambda r: r.row.span.value},
                "From the first event of a phase to its last: the median over rounds.",
            ),
            Column(
                "promised\nms",
                lambda r: units.milliseconds(r.promised),
                {"promised_seconds": lambda r: r.promised},
                PROMISED,
            ),
            floor_column(_phase_row),
            Column(
                "measured\nover floor",
                lambda r: units.times(r.row.over_floor),
                {},
                "How many times its floor the measured time is.",
            ),
        ],
        rows,
    )


def remarks(explanation: Explanation) -> list[str]:
    """What could not be told apart, and what to do."""
    usual = NOTHING if explanation.trusted else UNTOLD
    if untold(explanation.contributions):
        usual = TOO_FEW
    return [f"! {note}" for note in explanation.notes] + [
        f"> {line}" for line in explanation.advice or [usual]
    ]


def decisions(cell: Cell) -> list[str]:
    """What the method's decisions take beside their FLOPs."""
    if not cell.decisions:
        return []
    operators = sum(one.operators for one in cell.decisions)
    scratch = max(one.scratch_bytes for one in cell.decisions)
    held = f"{units.megabytes(scratch)} MB of scratch at most"
    if len(cell.decisions) == 1:
        return [f"Its decision ({cell.decisions[0].site}): {operators:,} operators, {held}."]
    return [f"Its {len(cell.decisions)} decisions: {operators:,} operators in all, {held}."]


def headline(cell: Cell, explanation: Explanation) -> str:
    """Claim, promise and clock, and what most of the gap is; or that it is within the noise."""
    over = explanation.over_promise
    ends = (
        f"{name(cell)}: claimed {units.milliseconds(explanation.claimed_seconds)} ms, promised "
        f"{units.milliseconds(explanation.promised_seconds)} ms, measured "
        f"{units.milliseconds(explanation.measured_seconds)} ms: {over_text(over)} the promised "
        "time"
    )
    if explanation.within_noise:
        return f"{ends}, within the noise of this run."
    slower = over.value > 1
    sure = [
        part
        for part in explanation.causes
        if (part.low is not None and part.low > 0 if slower else (part.high or 0) < 0)
    ]
    if not sure:
        return f"{ends}."
    most = (max if slower else min)(sure, key=lambda part: part.seconds)
    return f"{ends}, most of all by {most.name} ({_signed(most.seconds)} ms)."


def _print_roofline(record: Record, cells: list[Cell], screen: Screen) -> None:
    table = roofline_table(record, cells)
    if record.peaks is None or not table.rows:
        explanation = "no roofline: the device was not calibrated when this was measured"
        screen.print_line(f"{explanation} (`tpprof calibrate`).", "dim")
        return
    title = f"against the roofline of {record.peaks.device} ({record.peaks.source})"
    screen.print_line(title, "bold")
    screen.print_grid(table)


def _promised(record: Record, row: PhaseRow) -> float | None:
    """The time of a phase as its share of vanilla's FLOPs promises."""
    vanilla = baseline(record, row.cell)
    return promised_seconds(row.cell, vanilla, row.phase) if vanilla else None


def _phase_row(floored: Floored) -> PhaseRow:
    return floored.row


def _unseen(of: Callable[[RowT], Cell]) -> list[Column[RowT]]:
    """What names a cell, for programs alone."""
    named = [replace(column, shown=False) for column in (method_column(of), attention_column(of))]
    return [*named, for_programs("runtime", lambda row: of(row).runtime)]


def _tone(step: Step) -> Tone:
    """What adds time is bad, what saves it good."""
    if step.is_end:
        return "strong"
    return "bad" if step.part.seconds >= 0 else "good"


def _bar(begin: float, end: float) -> str:
    """A bar between two columns: full blocks for what is added, light ones for what is saved; a
    hairline for what is less than half a column."""
    low, high = sorted((round(begin), round(end)))
    if low == high:
        mark = "" if abs(end - begin) < 0.05 else "▏"
        return (" " * min(low, BAR - 1) + mark).ljust(BAR)
    return (" " * low + ("█" if end >= begin else "░") * (high - low)).ljust(BAR)


def _signed(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return ("+" if seconds >= 0 else "-") + units.milliseconds(abs(seconds))


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{_signed(low)} to {_signed(high)}"
