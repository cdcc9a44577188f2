"""Several records in one figure, aligned by method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import units
from ..analysis.run_view import MOST, RunView
from ..text.side_by_side import aligned, label
from .canvas import (
    GRID,
    INK,
    MUTED,
    SERIES,
    Chart,
    blank,
    key,
    key_lines,
    left_out,
    place_axes,
    short,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..analysis.summary import Row

NAME, STEP = 0.3, 0.095  # inches for the name of a method, and for each record below it


def chart(subjects: Sequence[RunView], names: Sequence[str]) -> Chart | None:
    """Measured speed-up of every method in each record, with its interval; a hollow mark is what
    FLOPs promise."""
    known = [
        (label(found), rows)
        for found, rows in aligned([subject.measured for subject in subjects])
        if found[0].partition(":")[0] != "vanilla" and any(row and row.speedup for row in rows)
    ]
    listed = known[:MOST]
    if not listed:
        return None
    entries = [(short(called, 40), SERIES[n % len(SERIES)]) for n, called in enumerate(names)]
    entries.append(("hollow: promised", MUTED))
    head = 0.15 + 0.18 * key_lines(entries)
    step = NAME + STEP * len(names)
    figure = blank(head + step * len(listed) + 0.5)
    axes = place_axes(figure, 0.15, 0.45, 0.2, head)
    drawn = Chart(
        "beside",
        "Speed-ups side by side",
        "Measured speed-up of each method in each record; hollow marks are promised.",
        figure,
        note=left_out(len(listed), len(known), "methods"),
    )
    key(figure, entries, top=0.14)
    reach = 1.0
    for number, (word, rows) in enumerate(listed):
        top = -number * step  # in inches, as the axis is
        axes.axhline(top - NAME - STEP * (len(names) - 1) / 2, color=GRID, linewidth=0.6)
        for place_, row in enumerate(rows):
            if row is not None and row.speedup is not None:
                height = top - NAME - STEP * place_
                colour, words = SERIES[place_ % len(SERIES)], f"{names[place_]}, {word}"
                reach = max(reach, _point(drawn, axes, row, height, colour, words))
        axes.text(0, top - NAME + 0.08, short(word, 44), fontsize=9.2, color=INK, va="bottom")
    axes.axvline(1, color=MUTED, linewidth=0.8)
    axes.set_xlim(0, reach * 1.05)
    axes.set_ylim(-len(listed) * step, 0)
    axes.set_yticks([])
    axes.grid(visible=True, axis="x")
    axes.set_xlabel("speed-up over vanilla")
    return drawn


def _point(drawn: Chart, axes: Axes, row: Row, height: float, colour: str, words: str) -> float:
    """The mark of a row, its interval and its promise; returns how far to the right they reach."""
    gain = row.speedup
    assert gain is not None
    if gain.low is not None and gain.high is not None:
        axes.plot([gain.low, gain.high], [height, height], color=colour, linewidth=1.4)
    (point,) = axes.plot([gain.value], [height], "o", color=colour, markersize=6)
    drawn.tip(point, f"{words}: {units.times(gain.value)}, promised {units.times(row.promised)}")
    if row.promised:
        axes.plot([row.promised], [height], "o", mfc="none", color=colour, markersize=6)
    return max(gain.value, gain.high or 0.0, row.promised or 0.0)
