"""A sweep as tables: all cells, the fastest for each budget, and what is planned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .. import units
from ..analysis.accuracy.rules import DEFAULT_RULE
from ..record.labels import runtime
from ..text.accuracy import score_columns
from ..text.cells import ends, over_text, time_column
from ..text.table import Column, Table, for_programs
from .grid import Grid, GridBlock, GridCell, Sweep
from .rows import Fastest, GridRow, best_by_budget, by_f1, front_of, grid_rows, varied

if TYPE_CHECKING:
    import pandas

PlannedCell = tuple[GridBlock, GridCell]
FRONT = (
    "Whether no other cell of its block keeps as many visual tokens and is as fast (speed) or "
    "takes as little memory (memory), or reaches as high an F1 and is as fast (accuracy)."
)


def grid_table(sweep: Sweep, listed: Sequence[GridRow] | None = None) -> Table[GridRow]:
    """A row for every cell of the grid; one that was not measured says why."""
    listed = grid_rows(sweep) if listed is None else listed
    columns = [
        *_what(sweep.grid, listed),
        *_times(),
        *_memory(),
        *_answers(sweep.grid, listed),
        _front(listed),
    ]
    failed = sum(bool(row.reason) for row in listed)
    warned = [f"{failed} of {len(listed)} cells were not measured"] if failed else []
    warned += _unanswered(listed)
    return Table(columns, listed, warned, failure=lambda row: row.reason)


def _unanswered(listed: Sequence[GridRow]) -> list[str]:
    """Why rows that were asked have no F1, each reason once."""
    reasons = Counter(row.score.reason for row in listed if row.score and row.score.reason)
    return [
        f"{count} of {len(listed)} cells did not answer the questions: {reason}"
        for reason, count in reasons.items()
    ]


def _what(grid: Grid, listed: Sequence[GridRow]) -> list[Column[GridRow]]:
    attentions = len({row.row.cell.attention for row in listed if row.row})
    runtimes = len({row.row.cell.runtime for row in listed if row.row})
    return [
        *_axes(grid, lambda row: row.axes),
        Column("method", lambda r: r.method, {"method": lambda r: r.method}, "", "words"),
        _own("attention", lambda r: r.attention, attentions > 1),
        _own("runtime", lambda r: runtime(r.row.cell) if r.row else None, runtimes > 1),
        Column(
            "visual\ntokens",
            lambda r: units.NA if r.tokens is None else f"{r.tokens:,.0f}",
            {
                "keep": lambda r: r.keep,
                "visual_mean": lambda r: r.tokens,
                "visual_last": lambda r: r.row.visual_last if r.row else None,
            },
            "The mean over decoder layers of the visual tokens that enter one.",
        ),
    ]


def _times() -> list[Column[GridRow]]:
    return [
        time_column(
            "latency\nms",
            "latency_seconds",
            lambda r: r.latency,
            "A whole request, from picture to last token: the median over rounds.",
        ),
        Column(
            "speed-up\nmeasured",
            lambda r: over_text(r.gain),
            ends("speedup", lambda r: r.gain),
            "Against vanilla of the same block, in pairs; in brackets the 95 % interval.",
        ),
        Column(
            "speed-up\npromised",
            lambda r: units.times(r.row.promised if r.row else None),
            {"promised": lambda r: r.row.promised if r.row else None},
            "What its FLOPs promise, phase by phase.",
            wide=True,
        ),
    ]


def _memory() -> list[Column[GridRow]]:
    return [
        Column(
            "KV MB",
            lambda r: units.megabytes(r.row.kv_bytes if r.row else None),
            {"kv_bytes": lambda r: r.row.kv_bytes if r.row else None},
            "Keys and values after prefill; MB of 10^6.",
            wide=True,
        ),
        Column(
            "peak memory",
            lambda r: units.gibibytes(r.peak_bytes),
            {"peak_bytes": lambda r: r.peak_bytes},
            "Of one request, weights included.",
        ),
    ]


def _answers(grid: Grid, listed: Sequence[GridRow]) -> list[Column[GridRow]]:
    """What its answers are worth, where they were asked for."""
    if not any(row.score for row in listed):
        return []
    rule = grid.blocks[0].spec.accuracy.rule if grid.blocks else DEFAULT_RULE
    return [
        *score_columns(lambda r: r.score, rule),
        for_programs("accuracy_reason", lambda r: (r.score.reason if r.score else "") or None),
    ]


def _front(listed: Sequence[GridRow]) -> Column[GridRow]:
    """Of what each cell is on the front, and what else programs get to know."""
    fronts = {
        "speed": front_of(listed, lambda row: row.speedup),
        "memory": front_of(listed, lambda r: None if r.peak_bytes is None else -r.peak_bytes),
        "accuracy": front_of(listed, lambda row: row.speedup, by_f1),
    }
    on = {
        id(row): ", ".join(of for of, chosen in fronts.items() if place in chosen)
        for place, row in enumerate(listed)
    }
    return Column(
        "front",
        lambda r: on[id(r)],
        {"front": lambda r: on[id(r)], "block": lambda r: r.block, "reason": lambda r: r.reason},
        FRONT,
        "words",
    )


def best_table(sweep: Sweep, listed: Sequence[GridRow]) -> Table[Fastest]:
    """The fastest method of each block and budget."""
    return Table(
        [
            *_axes(sweep.grid, lambda best: best.row.axes),
            Column(
                "budget",
                lambda b: b.row.keep or "-",
                {"keep": lambda b: b.row.keep},
                "The `keep` that was asked for; what it means differs from method to method.",
                "words",
            ),
            Column(
                "fastest", lambda b: b.row.label, {"method": lambda b: b.row.method}, "", "words"
            ),
            Column(
                "speed-up\nmeasured",
                lambda b: over_text(b.row.gain),
                ends("speedup", lambda b: b.row.gain),
                "Against vanilla of the same block; in brackets the 95 % interval.",
            ),
            Column(
                "not told\napart from",
                lambda b: _few([row.label for row in b.rivals]),
                {"rivals": lambda b: [row.method for row in b.rivals]},
                "Others whose interval overlaps with that of the fastest, or is not known.",
                "words",
            ),
        ],
        best_by_budget(listed),
    )


def plan_table(grid: Grid, rounds: int) -> Table[PlannedCell]:
    """What a sweep would measure, with what is planned of it. rounds: at least."""

    def least(cell: GridCell) -> float | None:
        return None if cell.floor_seconds is None else cell.floor_seconds * rounds

    rows = [(block, cell) for block in grid.blocks for cell in block.cells]
    known = [seconds for _, cell in rows if (seconds := least(cell)) is not None]
    notes = [
        f"least time: {rounds} rounds at the least time that the device allows; loading, warm-up "
        "and the passes behind the rounds come on top.",
        "peak memory: weights, caches and live tensors of the eager engine.",
    ]
    if known:
        notes.append(f"{sum(known):,.1f} s at least for {len(known)} of {len(rows)} cells.")
    else:
        notes.append("no time is planned: `tpprof calibrate` measures what the device can do.")
    return Table(
        [
            *_axes(grid, lambda pair: pair[0].axes),
            Column("method", lambda p: p[1].method, {"method": lambda p: p[1].method}, "", "words"),
            Column(
                "peak memory",
                lambda p: units.gibibytes(p[1].peak_bytes),
                {"peak_bytes": lambda p: p[1].peak_bytes},
            ),
            Column(
                "floor ms",
                lambda p: units.milliseconds(p[1].floor_seconds),
                {"floor_seconds": lambda p: p[1].floor_seconds},
            ),
            Column(
                "least\ntime s",
                lambda p: units.NA if least(p[1]) is None else f"{least(p[1]):,.2f}",
                {"least_seconds": lambda p: least(p[1]), "problem": _problem},
            ),
        ],
        rows,
        notes=notes,
        closing=size_of(grid),
        failure=_problem,
    )


def size_of(grid: Grid) -> str:
    """How large a grid is, in words."""
    cells, blocks = sum(len(block.cells) for block in grid.blocks), len(grid.blocks)
    each = "comparison" if blocks == 1 else "comparisons"
    return f"{cells:,} {'cell' if cells == 1 else 'cells'} in {blocks:,} {each}"


def frame(sweep: Sweep) -> pandas.DataFrame:
    """A sweep as a pandas frame, one row for every cell, in SI units."""
    import pandas

    return pandas.DataFrame(grid_table(sweep).to_values())


def _problem(pair: PlannedCell) -> str:
    return pair[1].problem or pair[0].problem


def _axes(grid: Grid, axes: Callable[[Any], dict[str, str]]) -> list[Column[Any]]:
    def column(name: str) -> Column[Any]:
        def value(row: Any) -> str | None:
            return axes(row).get(name)

        heading = name.replace("_", " ")
        return Column(heading, lambda row: value(row) or "-", {name: value}, "", "words")

    return [column(name) for name in varied(grid)]


def _own(name: str, value: Callable[[GridRow], str | None], shown: bool) -> Column[GridRow]:
    return Column(name, lambda r: value(r) or "-", {name: value}, "", "words", shown=shown)


def _few(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more or "-"
