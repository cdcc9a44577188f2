"""What FLOPs promise against what the clock says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import units
from ..analysis.run_view import RunView, label
from ..analysis.summary import Row
from ..record.labels import name, ran
from .canvas import GRID, INK, MUTED, SERIES, Chart, blank, key, key_lines, place_axes, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKS = {"rows": "o", "maps": "s", "published": "D"}
GLYPHS = {"rows": "●", "maps": "■", "published": "◆"}
FILLS = {"eager": "full", "graph": "none", "compile": "bottom"}
RUNTIMES = {"eager": "●", "graph": "○", "compile": "◒"}
COLOURS = SERIES[:7]
OTHERS = SERIES[7]  # of methods behind the seven fastest
TICKS = (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
MOST_LABELS = 10
LINE = 12  # points that a label needs


def chart(subject: RunView) -> Chart | None:
    """Speed-up promised (by FLOPs, phase by phase) against measured, both on logarithmic
    axes; on the diagonal the promise is kept. Bars: 95 % interval."""
    shown = [r for r in subject.measured if r.promised and r.speedup and r.cell.name != "vanilla"]
    if not shown:
        return None
    colours = colours_of(shown)
    entries, marks = key_entries(shown, colours)
    head = 0.1 + 0.18 * key_lines(entries)
    figure = blank(4.0 + head)
    axes = place_axes(figure, 0.55, 0.5, 0.15, head + 0.24)
    drawn = Chart(
        "promise",
        "Promised and measured speed-up",
        "Measured speed-up of each method over the one that its FLOPs promise, with 95 % "
        "intervals; on the diagonal the promise is kept.",
        figure,
    )
    key(figure, entries, top=0.14, marks=marks)
    for row in shown:
        _point(drawn, axes, row, colours[row.cell.method])
    _scale(axes, shown)
    if len(shown) <= MOST_LABELS:
        _labels(axes, shown)
    return drawn


def colours_of(shown: Sequence[Row]) -> dict[str, str]:
    """A colour for each method; where there are more than colours, for the fastest, and one for
    all others."""
    methods = list(dict.fromkeys(row.cell.method for row in shown))
    if len(methods) <= len(SERIES):
        return dict(zip(methods, SERIES, strict=False))
    best = {name: max(_gain(row) for row in shown if row.cell.method == name) for name in methods}
    fastest = sorted(methods, key=lambda name: -best[name])
    return dict(zip(fastest, [*COLOURS, *[OTHERS] * len(methods)], strict=False))


def _gain(row: Row) -> float:
    return row.speedup.value if row.speedup else 0.0


def key_entries(
    shown: Sequence[Row], colours: dict[str, str]
) -> tuple[list[tuple[str, str]], list[str]]:
    """Entries and marks of the key: colours of methods, marks of policies and fills of runtimes
    where there are several."""
    named = list(colours.items())
    entries = [(short(method, 30), colour) for method, colour in named]
    if len(named) > len(SERIES):
        entries = entries[: len(COLOURS)]
        entries.append((f"{len(named) - len(COLOURS)} others", OTHERS))
    marks = ["■"] * len(entries)
    policies = {row.cell.attention for row in shown if row.cell.reads_attention}
    runtimes = {ran(row.cell) for row in shown}
    for variants, glyphs in ((policies, GLYPHS), (runtimes, RUNTIMES)):
        if len(variants) > 1:
            listed = [word for word in glyphs if word in variants]
            entries += [(word, MUTED) for word in listed]
            marks += [glyphs[word] for word in listed]
    return entries, marks


def _point(drawn: Chart, axes: Axes, row: Row, colour: str) -> None:
    assert row.promised is not None
    assert row.speedup is not None
    gain = row.speedup
    if gain.low is not None and gain.high is not None:
        axes.plot([row.promised] * 2, [gain.low, gain.high], color=colour, linewidth=1.2)
    mark = MARKS.get(row.cell.attention, "o")
    (point,) = axes.plot(
        [row.promised],
        [gain.value],
        mark,
        color=colour,
        markersize=6.5,
        fillstyle=FILLS.get(ran(row.cell), "full"),
        markerfacecoloralt="none",
    )
    interval = f" {units.interval(gain.low, gain.high)}" if gain.low and gain.high else ""
    drawn.tip(
        point,
        f"{name(row.cell)}: promised {units.times(row.promised)}, measured "
        f"{units.times(gain.value)}{interval}; {_over(row) or 'within the noise of'} the promised "
        "time",
    )


def _over(row: Row) -> str:
    """How many times the promised time it took; empty where that is noise."""
    return units.times(row.over_promise.value) if row.over_promise else ""


def _scale(axes: Axes, shown: Sequence[Row]) -> None:
    values = [1.0]
    for row in shown:
        gain = row.speedup
        values += [
            v
            for v in (row.promised, gain and gain.value, gain and gain.low, gain and gain.high)
            if v
        ]
    low, high = min(values) / 1.25, max(values) * 1.25
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(min(low, 0.85), high)
    axes.set_ylim(min(low, 0.85), high)
    ticks = [tick for tick in TICKS if min(low, 0.85) <= tick <= high]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ticks, [f"{tick:g}x" for tick in ticks])
        axis.set_ticks([], minor=True)
    axes.grid(visible=True)
    axes.plot([low / 2, high * 2], [low / 2, high * 2], color=MUTED, linewidth=1, dashes=(4, 3))
    axes.axhline(1, color=GRID, linewidth=1.2)
    axes.set_xlabel("promised by FLOPs, phase by phase")
    axes.set_title("measured, end to end", loc="left", fontsize=9.5, color=MUTED)
    axes.text(
        0.93,
        0.965,
        "promise kept",
        transform=axes.transAxes,
        ha="right",
        va="top",
        color=MUTED,
        fontsize=9.2,
    )


def _labels(axes: Axes, shown: Sequence[Row]) -> None:
    """Names beside the points; one that would lie on another name or mark moves up until it does
    not."""
    taken: list[tuple[float, float, float]] = []  # left, right, height in points
    for row in shown:
        x, y = axes.transData.transform((row.promised or 1.0, row.speedup.value))  # type: ignore[union-attr]
        taken.append((x - 5, x + 5, y))
    for row in sorted(shown, key=_gain):
        assert row.speedup is not None
        at = (row.promised or 1.0, row.speedup.value)
        x, y = axes.transData.transform(at)
        words = f"{short(label(row.cell), 24)}  {_over(row)}".rstrip()
        side = -1 if x - axes.bbox.x0 > axes.bbox.width * 0.45 else 1
        near, far = x + side * 9, x + side * (9 + 5.6 * len(words))
        left, right, height = min(near, far), max(near, far), y
        while any(left < r and low < right and abs(height - h) < LINE for low, r, h in taken):
            height += 1
        taken.append((left, right, height))
        axes.annotate(
            words,
            at,
            xytext=(side * 9, height - y),
            textcoords="offset points",
            va="center",
            ha="right" if side < 0 else "left",
            fontsize=9.2,
            color=INK,
            arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.6, "shrinkB": 3}
            if height - y > 3
            else None,
        )
