"""What came out, as pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tpprof.reports.analysis.accuracy.scores import Score
from tpprof.reports.analysis.run_view import RunView
from tpprof.reports.figures import accuracy
from tpprof.reports.figures.canvas import (
    INK,
    MUTED,
    SERIES,
    WIDTH,
    Chart,
    blank,
    key,
    place_axes,
)
from tpprof.reports.record.schema import Record

from .results import Position, Results, TableResult, bare

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE = 0.36  # inches of a method
PANEL = 0.95  # inches of a histogram


def charts(results: Results, record: Record | None) -> list[Chart]:
    """All pictures of the page: those for which there is something to show."""
    found = [table_1(results), figure_2(results), table_6(results)]
    found.append(table_7(record) if record is not None else None)
    return [chart for chart in found if chart is not None]


def table_1(results: Results) -> Chart | None:
    """F1 of each method as a dot with its interval, at each budget."""
    tables = _tables(results, "table-1")
    methods = [bare(score.method) for score in tables[0].scores[1:]] if tables else []
    if not methods:
        return None
    figure = blank(0.85 + LINE * len(methods))
    drawn = Chart(
        "table-1",
        "Table 1: F1 by method",
        "F1 of each method with its 95 % interval over pictures, at each budget.",
        figure,
    )
    _budget_key(drawn, tables)
    axes = place_axes(figure, 1.05, 0.42, 0.62, 0.3)
    for budget_place, table in enumerate(tables):
        for place, method in enumerate(methods):
            score = table.score(method)
            if score is not None and score.f1 is not None:
                _dot(axes, score, place + _shift(budget_place, len(tables)), SERIES[budget_place])
    _unpruned(axes, tables[0])
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.set_yticks(range(len(methods)), methods)
    axes.tick_params(length=0)
    axes.grid(visible=True, axis="x")
    axes.set_xlabel(f"F1 ({results.rule}); dashed: unpruned")
    return drawn


def table_6(results: Results) -> Chart | None:
    """F1 against alpha, from dissimilarity alone to attention alone."""
    tables = _tables(results, "table-6")
    if not tables:
        return None
    figure = blank(2.7)
    drawn = Chart(
        "table-6",
        "Table 6: F1 against alpha",
        "F1 against alpha, the share of attention in the score, with 95 % intervals over pictures.",
        figure,
    )
    _budget_key(drawn, tables)
    axes = place_axes(figure, 0.5, 0.45, 0.3, 0.3)
    for place, table in enumerate(tables):
        known = [s for s in table.scores[1:] if s.f1 is not None]
        shift = 0.012 * (place - (len(tables) - 1) / 2)
        places = [float(score.method.partition("alpha=")[2]) + shift for score in known]
        axes.plot(
            places,
            [score.f1.value for score in known if score.f1],
            "o-",
            color=SERIES[place],
            linewidth=1.4,
            markersize=5,
        )
        for x, score in zip(places, known, strict=True):
            _whisker(axes, score, x, SERIES[place])
            _value(axes, score, x, SERIES[place], above=place == 0)
    axes.margins(y=0.14)
    axes.grid(visible=True, axis="y")
    axes.set_xlabel("alpha: 0 dissimilarity alone, 1 attention alone")
    return drawn


def figure_2(results: Results) -> Chart | None:
    """Where kept tokens lie along the sequence, as a multiple of an even choice, by method."""
    methods = list(dict.fromkeys(position.method for position in results.positions))
    if not methods:
        return None
    rows = -(-len(methods) // 2)
    figure = blank(0.75 + (PANEL + 0.28) * rows)
    drawn = Chart(
        "figure-2",
        "Figure 2: where kept tokens lie",
        "Kept tokens over the token index, as a multiple of an even choice, by method and budget; "
        "beside each method the offset of its kept tokens (0 is even, +1 the last token).",
        figure,
    )
    words = [(f"{budget} tokens", SERIES[n]) for n, budget in enumerate(results.budgets)]
    key(figure, [*words, ("even", MUTED)], top=0.14)
    most = max(max(position.multiples) for position in results.positions)
    for number, method in enumerate(methods):
        row, column = divmod(number, 2)
        left = 0.35 + 2.38 * column
        top = 0.5 + row * (PANEL + 0.28)
        below = figure.get_figheight() - top - PANEL
        axes = place_axes(figure, left, below, WIDTH - left - 1.88, top)
        held = [position for position in results.positions if position.method == method]
        _panel(axes, held, results.budgets, most)
        if row == rows - 1 or number >= len(methods) - 2:
            axes.set_xticks([0, 0.5, 1], ["first", "middle", "last"])
        else:
            axes.set_xticks([0, 0.5, 1], [])
    return drawn


def table_7(record: Record) -> Chart | None:
    """F1 over measured speed-up, as on the page of a run."""
    chart = accuracy.chart(RunView(record))
    return None if chart is None else dataclasses.replace(chart, name="table-7")


def offsets(held: Sequence[Position]) -> str:
    return " / ".join(f"{position.offset.value:+.3f}" for position in held)


def _panel(axes: Axes, held: Sequence[Position], budgets: Sequence[int], most: float) -> None:
    for position in held:
        edges = [n / len(position.multiples) for n in range(len(position.multiples) + 1)]
        colour = SERIES[list(budgets).index(position.budget)]
        axes.stairs(position.multiples, edges, color=colour, linewidth=1.3)
    axes.axhline(1, color=MUTED, linewidth=0.8, dashes=(3, 3))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, most * 1.05)
    axes.locator_params(axis="y", nbins=3)
    title = f"{held[0].method}: {offsets(held)}"
    axes.set_title(title, loc="left", fontsize=8.6, color=INK, pad=3)


def _tables(results: Results, name: str) -> list[TableResult]:
    found = [results.table(name, budget) for budget in results.budgets]
    return [table for table in found if table is not None and not table.blind]


def _budget_key(drawn: Chart, tables: Sequence[TableResult]) -> None:
    words = [(f"{table.budget} tokens", SERIES[place]) for place, table in enumerate(tables)]
    key(drawn.figure, words, top=0.14)


def _shift(place: int, count: int) -> float:
    return 0.34 * (place - (count - 1) / 2)


def _dot(axes: Axes, score: Score, y: float, colour: str) -> None:
    found = score.f1
    assert found is not None
    if found.low is not None and found.high is not None:
        axes.plot([found.low, found.high], [y, y], color=colour, linewidth=1.4)
    axes.plot([found.value], [y], "o", color=colour, markersize=5)
    axes.annotate(
        f"{found.value:.3f}",
        (1, y),
        xycoords=("axes fraction", "data"),
        xytext=(8, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.6,
        color=colour,
        annotation_clip=False,
    )


def _unpruned(axes: Axes, table: TableResult) -> None:
    vanilla = table.score("vanilla")
    if vanilla is not None and vanilla.f1 is not None:
        axes.axvline(vanilla.f1.value, color=MUTED, linewidth=0.9, dashes=(4, 3), zorder=0.5)


def _whisker(axes: Axes, score: Score, x: float, colour: str) -> None:
    found = score.f1
    if found is not None and found.low is not None and found.high is not None:
        axes.plot([x, x], [found.low, found.high], color=colour, linewidth=1.4)


def _value(axes: Axes, score: Score, x: float, colour: str, *, above: bool) -> None:
    found = score.f1
    assert found is not None
    ends = [found.value if end is None else end for end in (found.low, found.high)]
    axes.annotate(
        f"{found.value:.3f}",
        (x, ends[1] if above else ends[0]),
        xytext=(0, 4 if above else -4),
        textcoords="offset points",
        ha="center",
        va="bottom" if above else "top",
        fontsize=8.2,
        color=colour,
    )
