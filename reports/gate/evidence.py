"""What pairs of times say of a change: an estimate, a studentised bound, an exact test."""

from __future__ import annotations

import functools
import math
import statistics
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..analysis.intervals import Mean, fenced, fences, t_cdf_two_sided, t_quantile

Key = TypeVar("Key")


@dataclass(frozen=True)
class Evidence:
    """What the log-ratios of `pairs` process pairs say: positive is slower.

    mean: with its studentised error; one wild process does not move it. middle: the Hodges-Lehmann
    estimate, shown beside it. p: the one-sided p-value of "not slower" by the exact sign-flip
    test.
    """

    pairs: int
    mean: Mean
    middle: float
    p: float

    @classmethod
    def of(cls, logs: Sequence[float]) -> Evidence:
        return cls(len(logs), fenced(logs), hodges_lehmann(logs), sign_flip(clipped(logs)))

    def low(self, alpha: float) -> float:
        """One-sided lower bound at level 1 - alpha."""
        return self.mean.centre - quantile(self.mean.freedom, alpha) * self.mean.error

    def high(self, alpha: float) -> float:
        """One-sided upper bound at level 1 - alpha."""
        return self.mean.centre + quantile(self.mean.freedom, alpha) * self.mean.error


def tail(mean: Mean) -> float:
    """P(T >= t), one-sided, of a studentised mean."""
    if mean.error == 0:
        return 0.0 if mean.centre > 0 else 1.0
    t = mean.centre / mean.error
    beyond = (1 - t_cdf_two_sided(abs(t), mean.freedom)) / 2
    return max(0.0, beyond) if t > 0 else 1 - beyond


def quantile(freedom: int, alpha: float) -> float:
    """The value that Student's t exceeds with probability `alpha` (below one half)."""
    return t_quantile(freedom, 1 - 2 * alpha)


def change(log: float) -> str:
    """A log-ratio as people read it, with its sign."""
    return f"{math.expm1(log) * 100:+.1f} %"


def clipped(logs: Sequence[float]) -> list[float]:
    """The log-ratios, their sizes pulled in to the upper one of Tukey's fences.

    Sizes do not change as signs flip, so that the sign-flip test of what is left is still exact.
    """
    most = fences([abs(log) for log in logs])[1]
    return [math.copysign(min(abs(log), most), log) for log in logs]


def sign_flip(values: Sequence[float]) -> float:
    """Exact one-sided p-value: how many of the 2^n ways to sign the values sum to as much or more.

    Where the arms are alike, every sign is equally likely. The sums of either half are listed and
    counted against each other (2^(n/2) of them), so that nothing is drawn at random.
    """
    sizes, total = [abs(value) for value in values], sum(values)
    half = len(sizes) // 2
    left, right = _signed_sums(sizes[:half]), sorted(_signed_sums(sizes[half:]))
    least = total - 1e-9 * sum(sizes)  # equal sums differ in the last bits
    count = sum(len(right) - bisect_left(right, least - part) for part in left)
    return float(count / 2 ** len(sizes))


def _signed_sums(sizes: Sequence[float]) -> list[float]:
    sums = [0.0]
    for size in sizes:
        sums = [part + sign for part in sums for sign in (size, -size)]
    return sums


def hodges_lehmann(values: Sequence[float]) -> float:
    """The median of the means of all pairs of values."""
    means = [(values[i] + values[j]) / 2 for i in range(len(values)) for j in range(i, len(values))]
    return statistics.median(means)


def holm(p_values: Mapping[Key, float], family: int) -> dict[Key, float]:
    """Holm's adjusted p-values. family: how many hypotheses there are, these and others."""
    adjusted: dict[Key, float] = {}
    largest = 0.0
    for rank, key in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        largest = max(largest, min(1.0, p_values[key] * (family - rank)))
        adjusted[key] = largest
    return adjusted


@functools.cache
def detectable(pairs: int, alpha: float, power: float = 0.8) -> float:
    """The smallest effect that a one-sided t-test finds with `power`, in standard deviations of
    one log-ratio: (t[alpha] + t[1 - power]) / sqrt(n)."""
    freedom = pairs - 1
    return (quantile(freedom, alpha) + quantile(freedom, 1 - power)) / math.sqrt(pairs)
