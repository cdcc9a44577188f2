"""Which visual tokens a method keeps: where they lie in the picture and in the sequence, and how
unevenly."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Sequence

from ..record.kept import Kept

BINS = 32  # of the histogram over the token index


def parts(kept: Sequence[Kept]) -> int:
    """Parts of the token index: no more than the shortest picture has tokens."""
    return min([BINS, *(entry.visual for entry in kept)])


def histogram(kept: Sequence[Kept], bins: int | None = None) -> list[float]:
    """The share of kept tokens in each of `bins` equal parts of the token index, over pictures."""
    bins = bins or parts(kept)
    counts = [0.0] * bins
    for entry in kept:
        for token in entry.tokens:
            counts[token * bins // entry.visual] += 1
    whole = sum(counts)
    return [count / whole for count in counts] if whole else counts


def multiples(kept: Sequence[Kept], bins: int | None = None) -> list[float]:
    """Kept tokens in each part, as a multiple of what an even choice keeps there."""
    pairs = zip(histogram(kept, bins), histogram(_everything(kept), bins), strict=True)
    return [mine / even for mine, even in pairs]


def attention(kept: Sequence[Kept], bins: int | None = None) -> list[float | None] | None:
    """Mean attention that a candidate in each part drew, over that of all candidates, 1 where it
    is even. A candidate is a token that was still there when the scores were read; a part without
    any is None, and so is the whole where no scores are known."""
    bins = bins or parts(kept)
    found: list[list[float]] = [[] for _ in range(bins)]
    for entry in kept:
        for token, score in enumerate(entry.scores):
            if score is not None:
                found[token * bins // entry.visual].append(score)
    every = [score for scores in found for score in scores]
    if sum(every) <= 0:
        return None
    mean = sum(every) / len(every)
    return [sum(scores) / len(scores) / mean if scores else None for scores in found]


def offset(kept: Sequence[Kept]) -> float | None:
    """How far to the end kept tokens lie: 2 * (mean(i / (n - 1)) - 1/2) over all kept tokens i of
    n; 0 where they lie evenly, +1 where all are the last one, -1 the first. None without any."""
    places = [
        token / (entry.visual - 1) for entry in kept if entry.visual > 1 for token in entry.tokens
    ]
    return 2 * (sum(places) / len(places) - 0.5) if places else None


def divergence(kept: Sequence[Kept], bins: int | None = None) -> float | None:
    """Jensen-Shannon divergence, in bits, of the histogram over the token index from that of all
    tokens: 0 where they are alike, 1 the most. None without any.

    Few tokens fill few parts, wherever they lie: read it beside `by_chance`.
    """
    mine = histogram(kept, bins)
    if not any(mine):
        return None
    pairs = zip(mine, histogram(_everything(kept), bins), strict=True)
    return sum(_apart(p, q) for p, q in pairs)


def by_chance(kept: Sequence[Kept], bins: int | None = None) -> float | None:
    """The divergence to be expected of an even random choice of as many tokens of each picture, in
    bits. None without any.

    The divergence is a sum over the parts. The tokens that fall into one of them are
    hypergeometric, independently from picture to picture, so that its expected value is exact.
    """
    bins, count = bins or parts(kept), sum(len(entry.tokens) for entry in kept)
    if not count:
        return None
    drawn = [(entry.visual, len(entry.tokens)) for entry in kept]
    even = histogram(_everything(kept), bins)
    sizes = [
        tuple(sorted((_size(part, bins, visual), visual, number) for visual, number in drawn))
        for part in range(bins)
    ]
    expected = 0.0
    for lots, times in Counter(zip(sizes, even, strict=True)).items():
        falls = functools.reduce(_convolved, [_hypergeometric(*lot) for lot in lots[0]])
        mean = sum(share * _apart(fall / count, lots[1]) for fall, share in enumerate(falls))
        expected += times * mean
    return expected


def _everything(kept: Sequence[Kept]) -> list[Kept]:
    """The same pictures with all of their tokens."""
    return [Kept(layer=0, visual=entry.visual, tokens=list(range(entry.visual))) for entry in kept]


def _size(part: int, bins: int, visual: int) -> int:
    """How many tokens i of `visual` have i * bins // visual == part."""
    first, after = (-(-edge * visual // bins) for edge in (part, part + 1))
    return after - first


@functools.cache
def _hypergeometric(size: int, whole: int, number: int) -> list[float]:
    """The chance that 0, 1, 2, ... of `number` tokens drawn from `whole` are among `size`."""
    ways = math.comb(whole, number)
    return [
        math.comb(size, k) * math.comb(whole - size, number - k) / ways
        for k in range(min(size, number) + 1)
    ]


def _convolved(one: list[float], other: list[float]) -> list[float]:
    """The chances of the sum of two independent counts; those below 1e-12 at the end are cut."""
    found = [0.0] * (len(one) + len(other) - 1)
    for i, p in enumerate(one):
        if p > 1e-15:
            for j, q in enumerate(other):
                found[i + j] += p * q
    while len(found) > 1 and found[-1] < 1e-12:
        found.pop()
    return found


def _apart(p: float, q: float) -> float:
    """What one part adds to the Jensen-Shannon divergence, in bits."""
    middle = (p + q) / 2
    return sum(x * math.log2(x / middle) / 2 for x in (p, q) if x > 0)
