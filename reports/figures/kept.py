"""Kept tokens over the picture, and over the token index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..pictures import overlay, pruned, views
from ..selection import BINS, Kept, Picture, divergence, histogram, offset, score_histogram
from .canvas import INK, MUTED, SERIES, WIDTH, Chart, blank, key, place, short

PANEL = 1.15  # inches of a histogram
MOST = 8  # histograms in one figure


def positions(kept: Mapping[str, Sequence[Kept]]) -> Chart | None:
    """Where kept tokens lie in the sequence, by method: the share in each of 32 parts over that
    of an even choice, at the last prune; and the share of the attention that chose them."""
    shown = [(method, entries) for method, entries in kept.items() if entries][:MOST]
    if not shown:
        return None
    figure = blank(0.3 + PANEL * len(shown) + 0.35)
    drawn = Chart(
        "positions", "Where kept tokens lie",
        "Kept tokens over the token index, as a multiple of an even choice, by method.", figure,
    )  # fmt: skip
    scored = any(entry.scores for _, entries in shown for entry in entries)
    words = [("kept", SERIES[0]), ("even", MUTED)]
    key(figure, words + ([("attention read", SERIES[1])] if scored else []), top=0.14)
    for number, (method, entries) in enumerate(shown):
        below = 0.42 + (len(shown) - 1 - number) * PANEL
        axes = place(figure, 0.42, below, 0.12, 0.52 + number * PANEL)
        shares = [share * BINS for share in histogram(entries)]
        steps = axes.stairs(shares, range(BINS + 1), color=SERIES[0], fill=True, alpha=0.85)
        scores = score_histogram(entries)
        if scores is not None:
            axes.stairs([s * BINS for s in scores], range(BINS + 1), color=SERIES[1], linewidth=1.4)
        axes.axhline(1, color=MUTED, linewidth=0.9, dashes=(4, 3))
        axes.set_title(f"{short(method, 24)}: {bias(entries)}", loc="left", fontsize=9.2, color=INK)
        axes.set_xlim(0, BINS)
        axes.set_ylim(bottom=0)
        axes.locator_params(axis="y", nbins=3)
        last = number == len(shown) - 1
        axes.set_xticks([0, BINS / 4, BINS / 2, 3 * BINS / 4, BINS],
                        ["first", "", "middle", "", "last"] if last else [""] * 5)  # fmt: skip
        drawn.tip(steps, f"{method}: {bias(entries)}")
    axes.set_xlabel("token index")
    return drawn


def bias(entries: Sequence[Kept]) -> str:
    """The two numbers of position bias in words."""
    shift, apart = offset(entries), divergence(entries)
    if shift is None or apart is None:
        return "no token has a place"
    return f"offset {round(shift, 2) + 0.0:+.2f}, divergence {apart:.2f} bit"


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
        0.1 / WIDTH, 1 - 0.17 / figure.get_figheight(), short(method, 48), fontsize=9.5,
        color=INK, va="center", fontweight="bold",
    )  # fmt: skip
    for row, (entry, line) in enumerate(zip(listed, images, strict=True)):
        for column, (view, image) in enumerate(zip(seen, line, strict=True)):
            left = 0.1 + column * (across + 0.1)
            top = 0.6 + row * (down + 0.3)
            axes = place(
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
