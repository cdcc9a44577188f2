"""Layer by layer: visual tokens, bytes of the KV cache, and time against FLOPs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .. import units
from ..analysis.by_round import baseline
from ..analysis.counterparts import layer_flops, layer_seconds
from ..analysis.run_view import RunView, label
from ..record.labels import name
from ..record.schema import Cell
from .canvas import (
    GRID,
    INK,
    MUTED,
    SERIES,
    WIDTH,
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

PANELS = 6  # cells whose layers are drawn one by one
PANEL = 1.6  # inches


def tokens(subject: RunView) -> Chart | None:
    """Visual tokens entering each decoder layer."""
    return _steps(
        subject,
        "tokens",
        "Visual tokens per layer",
        "Visual tokens entering each decoder layer.",
        lambda cell: [float(count) for count in cell.visual_per_layer],
        "visual tokens",
    )


def kv(subject: RunView) -> Chart | None:
    """Bytes of keys and values in each decoder layer's cache after prefill."""
    return _steps(
        subject,
        "kv",
        "KV cache per layer",
        "MB of keys and values in each decoder layer's cache after prefill, text included.",
        lambda cell: [count / 1e6 for count in cell.kv_bytes_prefill],
        "MB",
    )


def time(subject: RunView) -> Chart | None:
    """Measured time of each decoder layer in prefill against what its FLOPs promise: vanilla's time
    of that layer, times the share of its FLOPs that remains."""
    known = [row.cell for row in subject.measured if _base(subject, row.cell)]
    shown = known[:PANELS]
    if not shown:
        return None
    entries = [("measured", SERIES[0]), ("promised by its FLOPs", SERIES[1])]
    rows = math.ceil(len(shown) / 2)
    figure = blank(0.25 + PANEL * rows)
    drawn = Chart(
        "layers",
        "Time of each layer against its FLOPs",
        "Measured time of each decoder layer in prefill, and the time that its FLOPs promise.",
        figure,
        note=left_out(len(shown), len(known)),
    )
    key(figure, entries, top=0.14)
    for number, cell in enumerate(shown):
        row, column = divmod(number, 2)
        half = WIDTH / 2
        axes = place_axes(
            figure,
            0.42 + column * half,
            0.28 + (rows - 1 - row) * PANEL,
            0.06 + (1 - column) * half,
            0.5 + row * PANEL,
        )
        _panel(drawn, axes, cell, promised(subject, cell))
    return drawn


def promised(subject: RunView, cell: Cell) -> dict[int, float]:
    """Seconds of each layer as its FLOPs promise; empty where there is nothing to derive it of."""
    vanilla = _base(subject, cell)
    if vanilla is None:
        return {}
    own, full = layer_flops(cell), layer_flops(vanilla)
    return {layer: layer_seconds(vanilla, [layer]) * own[layer] / full[layer] for layer in full}


def _base(subject: RunView, cell: Cell) -> Cell | None:
    """The vanilla cell that layers are compared with; None where there is none with the same."""
    vanilla = baseline(subject.record, cell)
    if vanilla is None or vanilla is cell or not vanilla.samples:
        return None
    full = layer_flops(vanilla)
    return vanilla if full and layer_flops(cell).keys() == full.keys() else None


def _panel(drawn: Chart, axes: Axes, cell: Cell, wanted: dict[int, float]) -> None:
    for layer, seconds in wanted.items():
        spent = layer_seconds(cell, [layer])
        (bar,) = axes.bar(layer, spent * 1e3, width=0.7, color=SERIES[0], linewidth=0)
        drawn.tip(
            bar,
            f"{name(cell)}, layer {layer}: {units.milliseconds(spent)} ms, promised "
            f"{units.milliseconds(seconds)} ms",
        )
    edges = [layer - 0.5 for layer in wanted] + [max(wanted) + 0.5]
    axes.stairs([s * 1e3 for s in wanted.values()], edges, color=SERIES[1], linewidth=1.4)
    axes.set_title(short(label(cell), 26), loc="left", fontsize=9.2, color=INK)
    axes.set_xlim(-0.7, max(wanted) + 0.7)
    axes.locator_params(axis="x", nbins=5, integer=True)
    axes.locator_params(axis="y", nbins=4)
    axes.grid(visible=True, axis="y")
    axes.text(
        1.0, 0.97, "ms", transform=axes.transAxes, ha="right", va="top", fontsize=8.6, color=MUTED
    )


def _steps(
    subject: RunView,
    stem: str,
    title: str,
    about: str,
    of: Callable[[Cell], list[float]],
    unit: str,
) -> Chart | None:
    curves = _curves(subject.cells, of)
    if not curves:
        return None
    entries = [(short(word, 40), SERIES[n % len(SERIES)]) for n, (word, _) in enumerate(curves)]
    head = 0.12 + 0.18 * key_lines(entries)
    figure = blank(2.6 + head)
    axes = place_axes(figure, 0.55, 0.45, 0.15, head + 0.22)
    known = sum(bool(of(row.cell)) for row in subject.measured)
    shown = sum(bool(of(cell)) for cell in subject.cells)
    drawn = Chart(stem, title, about, figure, note=left_out(shown, known))
    key(figure, entries, top=0.14)
    for number, (word, values) in enumerate(curves):
        edges = [layer - 0.5 for layer in range(len(values) + 1)]
        dashes = "-" if number < len(SERIES) else "--"
        step = axes.stairs(
            values,
            edges,
            baseline=None,
            color=SERIES[number % len(SERIES)],
            linewidth=1.8,
            linestyle=dashes,
        )
        drawn.tip(step, f"{word}: {runs(values)} {unit}")
    axes.set_ylim(bottom=0)
    axes.set_xlim(-0.5, max(len(values) for _, values in curves) - 0.5)
    axes.locator_params(axis="x", nbins=8, integer=True)
    axes.grid(visible=True, axis="y")
    axes.spines["left"].set_color(GRID)
    axes.set_xlabel("decoder layer")
    axes.set_title(unit, loc="left", fontsize=9.5, color=MUTED)
    return drawn


def _curves(
    cells: Sequence[Cell], of: Callable[[Cell], list[float]]
) -> list[tuple[str, list[float]]]:
    """The different curves, each with the methods that share it."""
    shared: dict[tuple[float, ...], list[str]] = {}
    for cell in cells:
        values = tuple(of(cell))
        if values and cell.method not in shared.setdefault(values, []):
            shared[values].append(cell.method)
    return [(" = ".join(methods), list(values)) for values, methods in shared.items()]


def runs(values: Sequence[float]) -> str:
    """Values layer by layer, equal neighbours told once."""
    parts, start = [], 0
    for layer in range(1, len(values) + 1):
        if layer == len(values) or values[layer] != values[start]:
            span = f"{start}" if layer == start + 1 else f"{start}-{layer - 1}"
            parts.append(f"layer {span}: {values[start]:g}")
            start = layer
    return ", ".join(parts)
