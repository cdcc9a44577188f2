"""Kept tokens over the picture, and over the token index."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..analysis.position_bias import attention, by_chance, divergence, multiples, offset
from ..record.kept import Kept, Picture, pruned
from .canvas import INK, MUTED, SERIES, WIDTH, Chart, blank, key, left_out, place_axes, short
from .overlay import overlay, views

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import StepPatch

PANEL = 1.3  # inches of a histogram
MOST = 8  # histograms in one figure


def positions(kept: Mapping[str, Sequence[Kept]]) -> Chart | None:
    """Where kept tokens lie in the sequence, by method: those in each part over those of an even
    choice, at the last prune; and the attention that its candidates drew, over their mean."""
    known = [(method, entries) for method, entries in kept.items() if entries]
    shown = known[:MOST]
    if not shown:
        return None
    figure = blank(0.3 + PANEL * len(shown) + 0.35)
    drawn = Chart(
        "positions",
        "Where kept tokens lie",
        "Kept tokens over the token index, as a multiple of an even choice, by method.",
        figure,
        note=left_out(len(shown), len(known), "methods"),
    )
    scored = any(attention(entries) for _, entries in shown)
    words = [("kept", SERIES[0]), ("even", MUTED)]
    key(figure, words + ([("attention drawn", SERIES[1])] if scored else []), top=0.14)
    for number, (method, entries) in enumerate(shown):
        below = 0.42 + (len(shown) - 1 - number) * PANEL
        axes = place_axes(figure, 0.42, below, 0.12, 0.66 + number * PANEL)
        drawn.tip(_panel(axes, entries), f"{method}: {bias(entries)}")
        axes.set_title(f"{short(method, 40)}\n{bias(entries)}", loc="left", fontsize=9, color=INK)
        if number < len(shown) - 1:
            axes.tick_params(labelbottom=False)
    axes.set_xlabel("token index")
    return drawn


def _panel(axes: Axes, entries: Sequence[Kept]) -> StepPatch:
    """One histogram; a part in which no candidate was left has no attention drawn."""
    shares, scores = multiples(entries), attention(entries)
    edges = [number / len(shares) for number in range(len(shares) + 1)]
    steps = axes.stairs(shares, edges, color=SERIES[0], fill=True, alpha=0.85)
    if scores is not None:
        heights = [math.nan if score is None else score for score in scores]
        axes.stairs(heights, edges, baseline=None, color=SERIES[1], linewidth=1.4)
    axes.axhline(1, color=MUTED, linewidth=0.9, dashes=(4, 3))
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="y", nbins=3)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["first", "", "middle", "", "last"])
    return steps


def bias(entries: Sequence[Kept]) -> str:
    """The numbers of position bias in words."""
    shift, apart, chance = offset(entries), divergence(entries), by_chance(entries)
    if shift is None or apart is None or chance is None:
        return "no token has a place"
    return (
        f"offset {round(shift, 2) + 0.0:+.2f}, divergence {apart:.3f} bit, by chance {chance:.3f}"
    )


def over_picture(name: str, method: str, picture: Picture, kept: list[Kept]) -> Chart | None:
    """The picture as it is kept, from the first prune (above) to the last, view by view."""
    import numpy

    listed, seen = pruned(kept), views(picture)
    if not listed:
        return None
    images = [[overlay(picture, view, entry) for view in seen] for entry in listed]
    width, height = images[0][0].size
    across = (WIDTH - 0.1) / max(len(seen), 2) - 0.1
    down = across * height / width
    figure = blank(0.35 + (down + 0.3) * len(listed))
    drawn = Chart(
        name, f"Kept by {method}", f"The visual tokens that {method} keeps of the picture.", figure
    )
    figure.text(
        0.1 / WIDTH,
        1 - 0.17 / figure.get_figheight(),
        short(method, 48),
        fontsize=9.5,
        color=INK,
        va="center",
        fontweight="bold",
    )
    for row, (entry, line) in enumerate(zip(listed, images, strict=True)):
        for column, (view, image) in enumerate(zip(seen, line, strict=True)):
            left = 0.1 + column * (across + 0.1)
            top = 0.6 + row * (down + 0.3)
            axes = place_axes(
                figure, left, figure.get_figheight() - top - down, WIDTH - left - across, top
            )
            axes.imshow(numpy.asarray(image), aspect="auto")
            axes.set_axis_off()
            axes.set_title(caption(entry, view), loc="left", fontsize=8.6, color=MUTED, pad=3)
    return drawn


def caption(entry: Kept, view: str) -> str:
    """What a picture of kept tokens shows."""
    merged = f" + {entry.merged} merged" if entry.merged else ""
    return f"layer {entry.layer} on: {len(entry.tokens)}{merged}, {view}"
