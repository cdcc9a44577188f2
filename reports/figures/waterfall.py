"""From the claimed time to the measured one: what each cause adds or saves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import units
from ..analysis.explanation import ENDS, Contribution, Explanation
from ..analysis.run_view import label
from ..record.labels import name
from ..record.schema import Cell
from .canvas import GRID, INK, MUTED, SERIES, Chart, blank, place_axes, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALL = 0.01  # of the measured time: less is drawn together
STEP = 0.235  # inches of a row
ENDS_COLOURS = {"claimed": GRID, "promised": MUTED, "measured": SERIES[0]}


def chart(cell: Cell, explanation: Explanation, number: int) -> Chart:
    """The waterfall of one cell, in milliseconds; `number` tells its file from the others'."""
    parts = explanation.walk(gathered(explanation))
    rows = _bars(parts)
    count = len(rows)
    figure = blank(0.35 + STEP * count + 0.4)
    axes = place_axes(figure, 1.62, 0.42, 0.62, 0.32)
    ends = ", ".join(
        f"{part.name} {units.milliseconds(part.seconds)} ms" for part in parts if part.name in ENDS
    )
    drawn = Chart(
        f"waterfall-{number}",
        f"From claim to clock: {label(cell)}",
        f"{name(cell)}: {ends}, and what lies between.",
        figure,
    )
    longest = max(stop for _, _, stop, _, _ in rows) * 1e3
    for place_, (word, start, stop, colour, about) in enumerate(rows):
        low, high = sorted((start * 1e3, stop * 1e3))
        (bar,) = axes.barh(-place_, high - low, left=low, height=0.62, color=colour, linewidth=0)
        whole = word in ENDS
        value = units.milliseconds(stop) if whole else _signed(stop - start)
        drawn.tip(bar, f"{word}: {value} ms{'. ' + about if about else ''}")
        axes.text(
            -0.02 * longest,
            -place_,
            short(word, 26),
            ha="right",
            va="center",
            fontsize=9.2,
            color=INK,
            fontweight="bold" if whole else "normal",
        )
        axes.text(high + 0.015 * longest, -place_, value, va="center", fontsize=9.2, color=MUTED)
    axes.set_xlim(min(0.0, *(stop * 1e3 for _, _, stop, _, _ in rows)), longest * 1.02)
    axes.set_ylim(-count + 0.4, 0.6)
    axes.set_yticks([])
    axes.locator_params(axis="x", nbins=5)
    axes.grid(visible=True, axis="x")
    axes.spines["left"].set_color(GRID)
    axes.set_xlabel("ms")
    _write_title(figure, short(label(cell), 48))
    return drawn


def _write_title(figure: Figure, text: str) -> None:
    figure.text(
        0.1 / figure.get_figwidth(),
        1 - 0.16 / figure.get_figheight(),
        text,
        fontsize=9.5,
        color=INK,
        va="center",
        fontweight="bold",
    )


def _bars(parts: list[Contribution]) -> list[tuple[str, float, float, str, str]]:
    """Of each part its name, where its bar begins and ends (seconds), its colour, what it is."""
    bars, level = list[tuple[str, float, float, str, str]](), 0.0
    for part in parts:
        if part.name in ENDS:
            start, level, colour = 0.0, part.seconds, ENDS_COLOURS[part.name]
        else:
            start, level = level, level + part.seconds
            colour = SERIES[1] if part.seconds >= 0 else SERIES[2]
        bars.append((part.name, start, level, colour, part.about))
    return bars


def gathered(explanation: Explanation) -> list[Contribution]:
    """The causes, those below a hundredth of the measured time as one."""
    small = [p for p in explanation.causes if abs(p.seconds) < SMALL * explanation.measured_seconds]
    small = [part for part in small if part.name != "remainder"]
    if len(small) < 2:
        return explanation.causes
    listed = ", ".join(f"{part.name} {_signed(part.seconds)}" for part in small)
    one = Contribution(
        name=f"{len(small)} causes below 1 %",
        seconds=sum(part.seconds for part in small),
        about=f"{listed} ms",
    )
    large = [part for part in explanation.causes if part not in small]
    rest = [part for part in large if part.name == "remainder"]
    return [part for part in large if part not in rest] + [one] + rest


def _signed(seconds: float) -> str:
    return ("+" if seconds >= 0 else "-") + units.milliseconds(abs(seconds))
