"""Medians and their intervals, from samples alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A median with a 95 % interval; the interval is None from fewer than six samples."""

    median: float
    low: float | None
    high: float | None
    samples: int


def median(samples: Sequence[float], confidence: float = 0.95) -> Estimate | None:
    """The median and an interval that holds for any distribution; None without samples.

    The interval runs between two order statistics, chosen by the binomial distribution so that it
    covers the true median with at least `confidence`. 95 % takes six samples or more.
    """
    if not samples:
        return None
    ordered, count = sorted(samples), len(samples)
    middle = statistics.median(ordered)
    cut = _lowest_rank(count, (1 - confidence) / 2)
    if cut is None:
        return Estimate(middle, None, None, count)
    return Estimate(middle, ordered[cut], ordered[count - 1 - cut], count)


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> Estimate | None:
    """The median of paired ratios: both sides of a pair were measured in the same round."""
    return median([n / d for n, d in zip(numerators, denominators, strict=True)])


def _lowest_rank(count: int, tail: float) -> int | None:
    """The largest rank (from 0) below which the median lies with probability at most `tail`."""
    below, rank = 0.0, None
    for place in range(count // 2 + 1):
        below += math.comb(count, place) / 2**count
        if below > tail:
            return rank
        rank = place
    return rank
