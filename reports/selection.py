"""Which visual tokens a method keeps: where they lie in the picture and in the sequence, and how
unevenly."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

BINS = 32  # of the histogram over the token index


class Part(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of what a record says of kept tokens."""


class Kept(Part):
    """The visual tokens that enter decoder layer `layer` and those up to the next entry.

    tokens: indices into the `visual` original ones, in their order in the sequence, of the first
    request of the batch. merged: how many more stand for several and have no place. scores: mean
    attention that the method read to choose them, by original token, None where it had gone; empty
    where it read none, or none was kept.
    """

    layer: int
    visual: int
    tokens: list[int]
    merged: int = 0
    scores: list[float | None] = []


class Region(Part):
    """Visual tokens from `first` on that cover a rectangle of the picture in raster order: `rows`
    of `columns`, each row `stride` tokens after the one before. left, top, right, bottom: of the
    picture, 0 to 1; beyond it lies padding. view: regions of one view do not overlap."""

    view: str
    first: int
    rows: int
    columns: int
    stride: int
    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0


class Picture(Part):
    """A small copy of the picture, as base64 of a JPEG file, and what its visual tokens cover."""

    jpeg: str
    regions: list[Region]


def histogram(kept: Sequence[Kept], bins: int = BINS) -> list[float]:
    """The share of kept tokens in each of `bins` equal parts of the token index, over pictures."""
    counts = [0.0] * bins
    for entry in kept:
        for token in entry.tokens:
            counts[token * bins // entry.visual] += 1
    whole = sum(counts)
    return [count / whole for count in counts] if whole else counts


def score_histogram(kept: Sequence[Kept], bins: int = BINS) -> list[float] | None:
    """The share of the attention that falls in each part of the token index; None if unknown."""
    sums = [0.0] * bins
    for entry in kept:
        for token, score in enumerate(entry.scores):
            sums[token * bins // entry.visual] += score or 0.0
    whole = sum(sums)
    return [value / whole for value in sums] if whole > 0 else None


def offset(kept: Sequence[Kept]) -> float | None:
    """How far to the end kept tokens lie: 2 * (mean(i / (n - 1)) - 1/2) over all kept tokens i of
    n; 0 where they lie evenly, +1 where all are the last one, -1 the first. None without any."""
    places = [
        token / (entry.visual - 1) for entry in kept if entry.visual > 1 for token in entry.tokens
    ]
    return 2 * (sum(places) / len(places) - 0.5) if places else None


def divergence(kept: Sequence[Kept], bins: int = BINS) -> float | None:
    """Jensen-Shannon divergence, in bits, of the histogram over the token index from that of all
    tokens: 0 where they are alike, 1 the most. None without any."""
    mine = histogram(kept, bins)
    if not any(mine):
        return None
    whole = [Kept(layer=0, visual=entry.visual, tokens=list(range(entry.visual))) for entry in kept]
    even = histogram(whole, bins)
    middle = [(p + q) / 2 for p, q in zip(mine, even, strict=True)]
    return (_relative(mine, middle) + _relative(even, middle)) / 2


def _relative(one: Sequence[float], other: Sequence[float]) -> float:
    """Kullback-Leibler divergence in bits."""
    return sum(p * math.log2(p / q) for p, q in zip(one, other, strict=True) if p > 0)
