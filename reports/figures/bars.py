"""Horizontal bars, one for each cell, its name above it: what a phone's width has room for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .canvas import GRID, INK, MUTED, Chart, blank, key, key_lines, place_axes, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEP = 0.36  # inches for a bar and its name


@dataclass(frozen=True)
class Bar:
    """A bar: its name, its pieces as (word, colour, value), what it comes to in words, and marks
    upon it as (word, value)."""

    label: str
    pieces: Sequence[tuple[str, str, float]]
    total: str
    marks: Sequence[tuple[str, float]] = ()


def draw(
    name: str,
    title: str,
    about: str,
    bars: Sequence[Bar],
    unit: str,
    text: Callable[[float], str],
    note: str = "",
) -> Chart:
    """A chart of stacked bars; `text` is how a value of a piece reads, `unit` the axis' words,
    `note` what is left out."""
    legend = dict.fromkeys((word, colour) for bar in bars for word, colour, _ in bar.pieces)
    seen = {word for bar in bars for word, _, value in bar.pieces if value > 0}
    entries = [(word, colour) for word, colour in legend if word in seen]
    entries = [] if len(entries) < 2 else entries
    head = 0.1 + (0.18 * key_lines(entries) + 0.06 if entries else 0.0)
    figure = blank(head + STEP * len(bars) + 0.5)
    axes = place_axes(figure, 0.1, 0.45, 0.15, head)
    drawn = Chart(name, title, about, figure, note=note)
    if entries:
        key(figure, entries, top=0.14)
    longest = max(sum(value for _, _, value in bar.pieces) for bar in bars) or 1.0
    for place_, bar in enumerate(bars):
        _draw_bar(drawn, axes, bar, -float(place_), text)
        above: dict[str, Any] = {"y": 0.27 - place_, "va": "bottom", "fontsize": 9.2}
        axes.text(0, s=short(bar.label, max(16, 48 - len(bar.total))), color=INK, **above)
        axes.text(longest * 1.01, s=bar.total, ha="right", color=MUTED, **above)
    axes.set_xlim(0, longest * 1.01)
    axes.set_ylim(-len(bars) + 0.62, 0.72)
    axes.set_yticks([])
    axes.spines["left"].set_color(GRID)
    axes.grid(visible=True, axis="x")
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlabel(unit)
    return drawn


def _draw_bar(drawn: Chart, axes: Axes, bar: Bar, y: float, text: Callable[[float], str]) -> None:
    """The pieces of a bar, one behind the other, and the marks upon it."""
    left = 0.0
    for word, colour, value in bar.pieces:
        if value <= 0:
            continue
        (piece,) = axes.barh(y, value, left=left, height=0.42, color=colour, linewidth=0)
        drawn.tip(piece, f"{bar.label}: {word} {text(value)}")
        left += value
    for word, value in bar.marks:
        (mark,) = axes.plot([value], [y], "|", color=INK, markersize=9, markeredgewidth=1.4)
        drawn.tip(mark, f"{bar.label}: {word} {text(value)}")
