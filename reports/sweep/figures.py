"""What a sweep comes to: speed-up and memory over the tokens that stay, a panel for each block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import units
from ..figures.canvas import INK, MUTED, SERIES, Chart, blank, key, key_lines, left_out, short
from .grid import Sweep
from .rows import GridRow, Worth, by_f1, by_tokens, front_of, titles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 12
COLOURS, OTHERS = SERIES[:7], SERIES[7]
PANEL = 1.75  # inches


def speedups(sweep: Sweep, listed: Sequence[GridRow]) -> Chart | None:
    """Measured speed-up over the tokens that stay."""
    return _panels(
        sweep,
        listed,
        "speedups",
        "Speed-up and tokens that stay",
        "speed-up",
        lambda row: row.speedup,
        lambda row: row.speedup,
        units.times,
    )


def memory(sweep: Sweep, listed: Sequence[GridRow]) -> Chart | None:
    """Peak memory over the tokens that stay."""
    return _panels(
        sweep,
        listed,
        "memory",
        "Peak memory and tokens that stay",
        "GiB",
        lambda row: None if row.peak_bytes is None else row.peak_bytes / 2**30,
        lambda row: None if row.peak_bytes is None else -row.peak_bytes,
        lambda value: f"{value:.2f} GiB",
    )


def accuracy(sweep: Sweep, listed: Sequence[GridRow]) -> Chart | None:
    """Measured speed-up over F1."""
    return _panels(
        sweep,
        listed,
        "accuracy",
        "Speed-up and F1",
        "speed-up",
        lambda row: row.speedup,
        lambda row: row.speedup,
        units.times,
        Across("F1", by_f1, lambda f1: f"F1 {f1:.3f}"),
    )


@dataclass(frozen=True)
class Across:
    """What the panels run over. name: of the axis. of: its figure of a row. text: one in words."""

    name: str
    of: Worth
    text: Callable[[float], str]


TOKENS = Across("visual tokens", by_tokens, lambda tokens: f"{tokens:,.0f} visual tokens")


def _panels(
    sweep: Sweep,
    listed: Sequence[GridRow],
    name: str,
    heading: str,
    unit: str,
    height: Worth,
    worth: Worth,
    text: Callable[[float], str],
    across: Across = TOKENS,
) -> Chart | None:
    drawable = [r for r in listed if across.of(r) is not None and height(r) is not None]
    blocks = list(dict.fromkeys(row.block for row in drawable))
    shown = blocks[:MOST_PANELS]
    if not shown:
        return None
    colours = _colours(drawable)
    entries = _entries(colours)
    head, lines = 0.3 + 0.18 * key_lines(entries), (len(shown) + 1) // 2
    figure = blank(head + lines * (PANEL + 0.55))
    drawn = Chart(
        name,
        heading,
        f"{heading}, by comparison; outlined: no other keeps as much and does better.",
        figure,
        note=left_out(len(shown), len(blocks), "comparisons"),
    )
    key(figure, entries, top=0.14)
    chosen = {id(drawable[place]) for place in front_of(drawable, worth, across.of)}
    named_blocks = titles(sweep.grid)
    for number, block in enumerate(shown):
        axes = _panel(figure, number, head)
        axes.set_title(short(named_blocks[block], 30), loc="left", fontsize=9.2, color=INK)
        axes.set_ylabel(unit, fontsize=8.5, color=MUTED)
        if number >= len(shown) - 2:  # nothing stands below
            axes.set_xlabel(across.name, fontsize=8.5)
        own = [row for row in drawable if row.block == block]
        _draw(drawn, axes, own, colours, height, chosen, text, across)
    return drawn


def _entries(colours: dict[str, str]) -> list[tuple[str, str]]:
    """What the key says, with its colours: the methods, as many as have one of their own."""
    named = list(colours.items())[: len(SERIES) if len(colours) <= len(SERIES) else len(COLOURS)]
    entries = [(short(base, 26), colour) for base, colour in named]
    if len(entries) < len(colours):
        entries.append((f"{len(colours) - len(entries)} others", OTHERS))
    return [*entries, ("outlined: on the front", MUTED)]


def _panel(figure: Figure, number: int, head: float) -> Axes:
    """The axes of a panel: two stand side by side. head: inches above the first."""
    line, column = divmod(number, 2)
    width, full = figure.get_size_inches()
    top, half = head + line * (PANEL + 0.55), width / 2
    box = (
        (column * half + 0.5) / width,
        1 - (top + 0.1 + PANEL) / full,
        (half - 0.62) / width,
        (PANEL - 0.1) / full,
    )
    axes = figure.add_axes(box)
    axes.grid(visible=True)
    axes.locator_params(nbins=4)
    return axes


def _draw(
    drawn: Chart,
    axes: Axes,
    listed: Sequence[GridRow],
    colours: dict[str, str],
    height: Worth,
    chosen: set[int],
    text: Callable[[float], str],
    across: Across,
) -> None:
    """The cells of a block, those of a method joined."""
    for base in dict.fromkeys(row.base for row in listed):
        own = sorted((r for r in listed if r.base == base), key=lambda row: row.tokens or 0.0)
        xs, ys = [across.of(row) or 0.0 for row in own], [height(row) or 0.0 for row in own]
        colour = colours.get(base, MUTED)
        if len({row.attention for row in own}) == 1:
            axes.plot(xs, ys, "-", color=colour, linewidth=0.8)
        for row, x, y in zip(own, xs, ys, strict=True):
            edge = INK if id(row) in chosen else colour
            (point,) = axes.plot([x], [y], "o", color=colour, markersize=4.5, markeredgecolor=edge)
            drawn.tip(point, f"{row.label}: {across.text(x)}, {text(y)}")


def _colours(listed: Sequence[GridRow]) -> dict[str, str]:
    """A colour for each method; of more than seven, for those that reach the highest speed-up."""
    best: dict[str, float] = {}
    for row in listed:
        if not row.is_vanilla:
            best[row.base] = max(best.get(row.base, 0.0), row.speedup or 0.0)
    if len(best) <= len(SERIES):
        return dict(zip(best, SERIES, strict=False))
    fastest = sorted(best, key=lambda base: -best[base])
    return dict(zip(fastest, [*COLOURS, *[OTHERS] * len(fastest)], strict=False))
