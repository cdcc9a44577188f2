"""All figures of a record, in the order of the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ..analysis.run_view import RunView
from . import accuracy, kept, layers, order, promise, roofline, side_by_side, stacks, waterfall
from .canvas import Chart, save, style

WATERFALLS = 6  # cells whose waterfall is drawn
DRAWN: tuple[Callable[[RunView], Chart | None], ...] = (
    promise.chart,
    accuracy.chart,
    stacks.phases,
    layers.tokens,
    layers.kv,
    layers.time,
    stacks.memory,
    order.chart,
    roofline.chart,
    stacks.launches,
)
"""One function a figure: a subject in, a chart out, None where the record has no data for it."""


def waterfalls(subject: RunView) -> list[Chart]:
    """The waterfalls of the first cells that can be explained."""
    listed = subject.explained[:WATERFALLS]
    return [
        waterfall.chart(cell, explanation, number)
        for number, (cell, explanation) in enumerate(listed)
    ]


def kept_tokens(subject: RunView) -> list[Chart]:
    """Kept tokens over the picture and over the token index, method by method."""
    listed, picture = subject.kept, subject.record.picture
    charts = [kept.positions({method: entries[-1:] for method, entries in listed.items()})]
    if picture is not None:
        for number, (method, entries) in enumerate(listed.items()):
            charts.append(kept.over_picture(f"kept-{number}", method, picture, entries))
    return [chart for chart in charts if chart is not None]


def save_side_by_side(
    subjects: Sequence[RunView], names: Sequence[str], folder: Path, *, overwrite: bool = False
) -> list[Path]:
    """Write the figure of several records as PNG and PDF into `folder`; returns the files."""
    with style():
        chart = side_by_side.chart(subjects, names)
        return save(chart, folder, overwrite=overwrite) if chart else []


def save_all(subject: RunView, folder: Path, *, overwrite: bool = False) -> list[Path]:
    """Write every figure as PNG and PDF into `folder`; returns the files."""
    with style():
        charts = [chart for draw in DRAWN if (chart := draw(subject))]
        charts += waterfalls(subject) + kept_tokens(subject)
        return [path for chart in charts for path in save(chart, folder, overwrite=overwrite)]
