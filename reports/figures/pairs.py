"""What a gate judged: pairs of processes, below them those that confirm, the estimate with its
bounds, the tolerance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..gate.verdicts import Gate, Judged, Verdict
from .canvas import GRID, INK, MUTED, SERIES, Chart, blank, key, left_out, place_axes, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 24  # rows in one chart
STEP = 0.52  # inches for each of them
COLOURS = {
    Verdict.FAIL: SERIES[1],
    Verdict.NO_VERDICT: SERIES[7],
    Verdict.INCONCLUSIVE: SERIES[4],
    Verdict.IMPROVED: SERIES[2],
    Verdict.PASS: SERIES[2],
}


def chart(gate: Gate) -> Chart | None:
    """By how much each metric changed, in percent; right of the dashed line is a regression."""
    known = [row for row in gate.rows if "log_ratio" in row.values]
    listed = known[:MOST]
    if not listed:
        return None
    drawn = Chart(
        "gate",
        "Change of time",
        "Change of each time that was judged, with its one-sided bounds and the tolerance.",
        blank(0.35 + STEP * len(listed) + 0.5),
        note=left_out(len(listed), len(known), "metrics"),
    )
    axes = place_axes(drawn.figure, 0.15, 0.45, 0.2, 0.35)
    seen = list(dict.fromkeys(row.verdict for row in listed))
    entries = [(verdict.value, COLOURS.get(verdict, MUTED)) for verdict in seen]
    marks = [*"●" * len(entries), "╎"]
    entries.append(("tolerance", INK))
    if any(row.values.get("log_ratios") for row in listed):
        entries, marks = [*entries, ("one pair", MUTED)], [*marks, "|"]
    key(drawn.figure, entries, top=0.14, marks=marks)
    for place_, row in enumerate(listed):
        _row(drawn, axes, row, -(place_ + 0.7) * STEP)
    axes.set_ylim(-len(listed) * STEP, 0)
    axes.set_yticks([])
    axes.margins(x=0.06)
    axes.set_xlabel("change, % (right: slower)")
    return drawn


def _row(drawn: Chart, axes: Axes, row: Judged, height: float) -> None:
    colour, values = COLOURS.get(row.verdict, MUTED), row.values
    pairs = _percent(values.get("log_ratios", []))
    axes.plot([0, 0], [height - 0.12, height + 0.1], color=MUTED, linewidth=0.8)
    again = _percent(values.get("confirmation_log_ratios", []))
    for logs, down in ((pairs, 0.08), (again, 0.16)):
        axes.plot(logs, [height - down] * len(logs), "|", color=colour, markersize=5, alpha=0.6)
    axes.plot(_percent([values["low"], values["high"]]), [height] * 2, color=colour, linewidth=2)
    (point,) = axes.plot(_percent([values["log_ratio"]]), [height], "o", color=colour, markersize=7)
    drawn.tip(point, f"{row.cell}, {row.metric}: {row.change}; {row.verdict.value}")
    limit = 100 * values["tolerance"]
    axes.plot([limit] * 2, [height - 0.1, height + 0.1], "--", color=INK, linewidth=1)
    axes.axhline(height - 0.3 * STEP, color=GRID, linewidth=0.6)
    words = f"{short(row.cell, 34)}, {row.metric.removesuffix(' ms')}"
    axes.annotate(
        words,
        (0, height + 0.12),
        xycoords=("axes fraction", "data"),
        fontsize=9.2,
        color=INK,
        va="bottom",
    )


def _percent(logs: Sequence[float]) -> list[float]:
    return [100 * math.expm1(log) for log in logs]
