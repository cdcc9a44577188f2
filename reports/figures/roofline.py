"""The roofline: each phase as work per byte and work per second, under what the device can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import units
from ..analysis.by_round import phase
from ..analysis.run_view import RunView
from ..record.labels import name
from ..record.schema import Cell, Peaks
from .canvas import GRID, INK, MUTED, SERIES, Chart, blank, key, left_out, place_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PHASES = {"vision": SERIES[2], "prefill": SERIES[0], "decode": SERIES[4]}
MARKS = {"vision": "s", "prefill": "o", "decode": "^"}
GLYPHS = ("■", "●", "▲")


def chart(subject: RunView) -> Chart | None:
    """FLOP/s reached over FLOPs per byte (causal: without the half of attention that a kernel may
    skip), vision, prefill and decode of every cell; the roof is the
    least of peak FLOP/s and memory bandwidth times intensity (of the largest working set)."""
    peaks, dtype = subject.record.peaks, subject.record.model.dtype
    if peaks is None or dtype not in peaks.flops_per_second or not peaks.bandwidth:
        return None
    points = [
        (cell, label, *found)
        for cell in subject.cells
        for label in PHASES
        if (found := _point(cell, label))
    ]
    if not points:
        return None
    figure = blank(3.4)
    axes = place_axes(figure, 1.08, 0.5, 0.15, 0.35)
    drawn = Chart(
        "roofline",
        "Roofline",
        f"Causal FLOP/s of each phase over its FLOPs per byte, under the roof of {peaks.device}.",
        figure,
        note=left_out(len(subject.cells), len(subject.measured)),
    )
    key(figure, [*PHASES.items(), ("outlined: vanilla", MUTED)], top=0.14, marks=[*GLYPHS, "○"])
    axes.set_xscale("log")
    axes.set_yscale("log")
    _roof(axes, peaks, dtype, [intensity for *_, intensity, _ in points])
    for point in points:
        _plot(drawn, axes, *point)
    lowest = min(reached for *_, reached in points)
    axes.set_ylim(lowest / 4, peaks.flops_per_second[dtype] * 3)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(lambda value, _: units.rate(value))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks([], minor=True)
    axes.grid(visible=True)
    axes.set_xlabel("causal FLOPs per byte moved")
    return drawn


def _plot(
    drawn: Chart, axes: Axes, cell: Cell, label: str, intensity: float, reached: float
) -> None:
    """A phase of a cell as a mark, which says what it is."""
    vanilla = cell.name == "vanilla"
    (point,) = axes.plot(
        [intensity],
        [reached],
        MARKS[label],
        color=PHASES[label],
        markeredgecolor=INK if vanilla else PHASES[label],
        markersize=9 if vanilla else 5.5,
        alpha=0.85,
    )
    drawn.tip(
        point,
        f"{name(cell)}, {label}: {units.rate(reached)} at {intensity:,.3g} FLOPs per byte",
    )


def _point(cell: Cell, label: str) -> tuple[float, float] | None:
    """FLOPs per byte and FLOP/s of a phase."""
    work = [item for item in cell.cost if item.phase == label]
    flops = sum(item.causal_flops for item in work)
    moved = sum(item.read_bytes + item.written_bytes for item in work)
    spent = phase(cell, label)
    if not flops or not moved or spent is None or not spent.value:
        return None
    return flops / moved, flops / spent.value


def _roof(axes: Axes, peaks: Peaks, dtype: str, intensities: list[float]) -> None:
    peak = peaks.flops_per_second[dtype]
    bandwidth = max(peaks.bandwidth, key=lambda level: level.footprint_bytes).bytes_per_second
    ridge = peak / bandwidth
    low, high = min(*intensities, ridge) / 3, max(*intensities, ridge) * 3
    axes.plot([low, ridge, high], [low * bandwidth, peak, peak], color=MUTED, linewidth=1.6)
    axes.plot([ridge, ridge], [peak / 1e4, peak], color=GRID, linewidth=1)
    axes.set_xlim(low, high)
    axes.annotate(
        f"{units.rate(peak)}, {units.bandwidth(bandwidth)}",
        (high, peak),
        xytext=(-4, 5),
        textcoords="offset points",
        ha="right",
        fontsize=9.2,
        color=MUTED,
    )
