"""What methods cost in answers against what they win on the clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import units
from ..analysis.accuracy.scores import Score
from ..analysis.intervals import Estimate
from ..analysis.run_view import RunView
from ..analysis.summary import Row, front
from ..record.labels import name, ran
from .canvas import GRID, MUTED, Chart, blank, key, key_lines, place_axes
from .promise import FILLS, MARKS, TICKS, colours_of, key_entries

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Point = tuple[Row, Estimate, Estimate]
"""A row, its measured speed-up, and its F1."""


def chart(subject: RunView) -> Chart | None:
    """F1 over measured speed-up (logarithmic), with 95 % intervals of both, and the line of the
    rows that no other beats in both."""
    points = _points(subject)
    if not any(row.cell.name != "vanilla" for row, _, _ in points):
        return None
    rows = [row for row, _, _ in points]
    colours = colours_of(rows)
    entries, marks = key_entries(rows, colours)
    head = 0.1 + 0.18 * key_lines(entries)
    figure = blank(3.6 + head)
    axes = place_axes(figure, 0.55, 0.5, 0.15, head + 0.24)
    drawn = Chart(
        "accuracy",
        "F1 and measured speed-up",
        "F1 of each method over its measured speed-up, with 95 % intervals of both; on the line "
        "lies what no other row beats in both.",
        figure,
    )
    key(figure, entries, top=0.14, marks=marks)
    _front(axes, points)
    for row, gain, f1 in points:
        _point(drawn, axes, row, gain, f1, colours[row.cell.method])
    _scale(axes, points, subject.record.spec.accuracy.rule)
    return drawn


def _points(subject: RunView) -> list[Point]:
    found = []
    for row in subject.measured:
        score: Score | None = subject.scores.get(row.cell.method)
        if row.speedup is None or score is None:
            continue
        if score.f1 is not None:
            found.append((row, row.speedup, score.f1))
    return found


def _front(axes: Axes, points: list[Point]) -> None:
    places = [(gain.value, f1.value) for _, gain, f1 in points]
    best = [places[place] for place in front(places)]
    axes.plot(*zip(*best, strict=True), color=MUTED, linewidth=1, dashes=(4, 3), zorder=1)


def _point(drawn: Chart, axes: Axes, row: Row, gain: Estimate, f1: Estimate, colour: str) -> None:
    for estimate, across in ((gain, True), (f1, False)):
        if estimate.low is None or estimate.high is None:
            continue
        ends, other = [estimate.low, estimate.high], [f1.value if across else gain.value] * 2
        axes.plot(*((ends, other) if across else (other, ends)), color=colour, linewidth=1.2)
    (point,) = axes.plot(
        [gain.value],
        [f1.value],
        MARKS.get(row.cell.attention, "o"),
        color=colour,
        markersize=6.5,
        fillstyle=FILLS.get(ran(row.cell), "full"),
        markerfacecoloralt="none",
    )
    drawn.tip(
        point,
        f"{name(row.cell)}: {units.times(gain.value)}{_within(gain, 2)}, "
        f"F1 {f1.value:.3f}{_within(f1, 3)}",
    )


def _within(estimate: Estimate, digits: int) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return " " + units.interval(estimate.low, estimate.high, f".{digits}f")


def _scale(axes: Axes, points: list[Point], rule: str) -> None:
    reached = [v for _, g, _ in points for v in (g.value, g.low, g.high) if v]
    low, high = min([0.85, *(v / 1.1 for v in reached)]), max([1.2, *(v * 1.1 for v in reached)])
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    ticks = [tick for tick in TICKS if low <= tick <= high]
    axes.xaxis.set_ticks(ticks, [f"{tick:g}x" for tick in ticks])
    axes.xaxis.set_ticks([], minor=True)
    heights = [v for _, _, f1 in points for v in (f1.value, f1.low, f1.high) if v is not None]
    room = 0.05 * (max(heights) - min(heights) or 1)
    axes.set_ylim(min(heights) - room, max(heights) + room)
    axes.grid(visible=True)
    axes.axvline(1, color=GRID, linewidth=1.2, zorder=0.5)
    axes.set_xlabel("speed-up measured, end to end")
    axes.set_title(f"F1 ({rule})", loc="left", fontsize=9.5, color=MUTED)
