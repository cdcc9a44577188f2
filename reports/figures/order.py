"""Every sample in the order in which it was taken: drift, and processes that are fast or slow."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from .. import units
from ..analysis.run_view import MOST, RunView, label
from ..record.labels import name
from ..record.schema import Cell, Sample
from .canvas import GRID, INK, MUTED, SERIES, Chart, blank, key, left_out, place_axes, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STRIP = 0.62  # inches for one cell
NEXT = SERIES[6]  # samples of every other process
LEAST = 0.05  # of the median: the strip shows at least so much on either side
CLOCK = 0.3  # inches more for its SM clock


def chart(subject: RunView) -> Chart | None:
    """The latency of every sample over the time at which it was taken, cell by cell; a line at the
    median. Suspect samples stand out; under it the SM clock of the GPU, where it is known."""
    known = [row.cell for row in subject.measured if len(row.cell.samples) > 1]
    shown = known[:MOST]
    if not shown:
        return None
    clocked = any(_clock(sample) for cell in shown for sample in cell.samples)
    step = STRIP + (CLOCK if clocked else 0)
    figure = blank(0.3 + step * len(shown) + 0.45)
    drawn = Chart(
        "order",
        "Run order",
        "Latency of every sample over the time of the run, cell by cell, with its median: a slope "
        "is drift, two bands are two speeds.",
        figure,
        note=left_out(len(shown), len(known)),
    )
    entries = [("sample", SERIES[0]), ("suspect", SERIES[1]), ("median", MUTED)]
    if any(sample.process % 2 for cell in shown for sample in cell.samples):
        entries[1:1] = [("of every other process", NEXT)]
    key(figure, entries + ([("SM clock", SERIES[2])] if clocked else []), top=0.14)
    begins = [sample.began for cell in shown for sample in cell.samples]
    start, span = min(begins), max(max(begins) - min(begins), 1.0)
    for number, cell in enumerate(shown):
        above = 0.5 + number * step
        below = 0.45 + (len(shown) - 1 - number) * step
        axes = place_axes(figure, 0.1, below + (CLOCK if clocked else 0), 0.76, above)
        _strip(drawn, axes, cell, start, span)
        axes.set_xlim(-0.02 * span, 1.02 * span)
        last = number == len(shown) - 1
        axes.tick_params(labelbottom=last and not clocked)
        if clocked:
            under = place_axes(figure, 0.1, below, 0.76, above + STRIP - 0.2)
            _clocks(under, cell, start)
            under.set_xlim(axes.get_xlim())
            under.tick_params(labelbottom=last)
        if last:
            (under if clocked else axes).set_xlabel("seconds since the first sample")
    return drawn


def _strip(drawn: Chart, axes: Axes, cell: Cell, start: float, span: float) -> None:
    middle = median(sample.latency for sample in cell.samples)
    lowest, highest = (f(sample.latency for sample in cell.samples) for f in (min, max))
    axes.axhline(middle, color=MUTED, linewidth=0.8)
    for colour, odd, suspect in ((SERIES[0], 0, False), (NEXT, 1, False), (SERIES[1], None, True)):
        wanted = [
            sample
            for sample in cell.samples
            if bool(sample.marks) is suspect and odd in (None, sample.process % 2)
        ]
        if wanted:
            dots = _dots(axes, wanted, start, span / 1e3, colour)
            drawn.tip(
                dots,
                f"{name(cell)}: {len(wanted)} samples{', suspect' if suspect else ''}, all from "
                f"{units.milliseconds(lowest)} to {units.milliseconds(highest)} ms, median "
                f"{units.milliseconds(middle)} ms",
            )
    room = (highest - lowest) * 0.18
    low, high = min(lowest - room, middle * (1 - LEAST)), max(highest + room, middle * (1 + LEAST))
    axes.set_ylim(low, high)
    axes.set_yticks([])
    axes.grid(visible=True, axis="x")
    axes.locator_params(axis="x", nbins=6)
    axes.set_title(short(label(cell), 44), loc="left", fontsize=9.2, color=INK, pad=2)
    centre = ((highest + lowest) / 2 - low) / (high - low)
    reach = max((highest - lowest) / 2 / (high - low), 0.17)  # no label lies on the other
    for value, height in ((highest, centre + reach), (lowest, centre - reach)):
        axes.text(
            1.015,
            height,
            f"{units.milliseconds(value)} ms",
            transform=axes.transAxes,
            fontsize=8.6,
            color=MUTED,
            va="center",
        )


def _dots(axes: Axes, samples: list[Sample], start: float, dot: float, colour: str) -> object:
    """Dots as one path of very short strokes: a quarter of the bytes that markers take."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    points = [(sample.began - start, sample.latency) for sample in samples]
    corners = [corner for x, y in points for corner in ((x, y), (x + dot, y))]
    codes = [Path.MOVETO, Path.LINETO] * len(points)
    patch = PathPatch(
        Path(corners, codes),
        edgecolor=colour,
        facecolor="none",
        linewidth=4.4,
        capstyle="round",
        snap=False,
    )
    return axes.add_patch(patch)


def _clocks(axes: Axes, cell: Cell, start: float) -> None:
    known = [(s.began - start, clock / 1e6) for s in cell.samples if (clock := _clock(s))]
    axes.set_yticks([])
    axes.spines["left"].set_color(GRID)
    axes.locator_params(axis="x", nbins=6)
    if not known:
        return
    clocks = [clock for _, clock in known]
    axes.plot(*zip(*known, strict=True), color=SERIES[2], linewidth=1)
    axes.set_ylim(min(clocks) * 0.97, max(clocks) * 1.03)
    axes.text(
        1.015,
        0.5,
        f"{median(clocks):,.0f} MHz",
        transform=axes.transAxes,
        fontsize=8.6,
        color=MUTED,
        va="center",
    )


def _clock(sample: Sample) -> float | None:
    telemetry = sample.telemetry
    return telemetry.sm_clock_hz if telemetry and telemetry.readings else None
