"""Estimates and their 95 % intervals, from samples alone."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
FEWEST = 6  # the fewest samples whose extremes hold the true median with 95 %
TRIM = 0.2  # share of paired ratios set aside at either end
FENCE = 1.5  # interquartile ranges beyond the quartiles (Tukey 1977, inner fences)
PERCENTILE_FLOORS = {0.95: 100, 0.99: 662}  # fewer samples say nothing of it (MLPerf LoadGen)


@dataclass(frozen=True)
class Estimate:
    """A value with a 95 % interval; the interval is None from fewer than six samples."""

    value: float
    low: float | None
    high: float | None
    samples: int

    @property
    def precision(self) -> float | None:
        """Half the width of the interval over the value; None without an interval."""
        if self.low is None or self.high is None:
            return None
        return (self.high - self.low) / 2 / self.value

    def times(self, factor: float) -> Estimate:
        """The same of `factor` (above 0) times the quantity."""
        low, high = (None if end is None else end * factor for end in (self.low, self.high))
        return Estimate(self.value * factor, low, high, self.samples)


@dataclass(frozen=True)
class Mean:
    """A robust mean, its standard error, and the degrees of freedom of their ratio."""

    centre: float
    error: float
    freedom: int

    def reach(self, confidence: float) -> float:
        """Half the width of the two-sided interval."""
        return t_quantile(self.freedom, confidence) * self.error


def trimmed(values: Sequence[float]) -> Mean:
    """The 20 % trimmed mean of two values or more, studentised by the winsorised variance."""
    ordered, count = sorted(values), len(values)
    cut = int(TRIM * count)
    kept = count - 2 * cut
    centre = statistics.fmean(ordered[cut : count - cut])
    winsorised = [min(max(value, ordered[cut]), ordered[count - 1 - cut]) for value in ordered]
    error = math.sqrt(statistics.variance(winsorised) * (count - 1) / (kept * (kept - 1)))
    return Mean(centre, error, kept - 1)


def central(values: Sequence[float]) -> list[int]:
    """The places of the values that a 20 % trimmed mean is made of, of one value or more."""
    order = sorted(range(len(values)), key=values.__getitem__)
    cut = int(TRIM * len(order))
    return order[cut : len(order) - cut]


def mean_interval(values: Sequence[float]) -> Estimate | None:
    """The 20 % trimmed mean with its studentised interval, which needs six values; None of none.

    Where values are paired by round, as times of one round over that of vanilla in it, drift is no
    part of the interval.
    """
    if not values:
        return None
    if len(values) < FEWEST:
        centre = statistics.fmean([values[place] for place in central(values)])
        return Estimate(centre, None, None, len(values))
    mean = trimmed(values)
    reach = mean.reach(CONFIDENCE)
    return Estimate(mean.centre, mean.centre - reach, mean.centre + reach, len(values))


def fenced(values: Sequence[float]) -> Mean:
    """The mean of two values or more, those beyond Tukey's fences pulled in to them.

    One wild value does not move it, and where values fall into two modes, or none is wild, it is
    the plain mean, which a trimmed one loses much against.
    """
    ordered, count = sorted(values), len(values)
    low, high = fences(ordered)
    inside = [min(max(value, low), high) for value in ordered]
    return Mean(statistics.fmean(inside), statistics.stdev(inside) / math.sqrt(count), count - 1)


def fences(values: Sequence[float]) -> tuple[float, float]:
    """Between which values are ordinary: `FENCE` interquartile ranges around the quartiles."""
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first - FENCE * (third - first), third + FENCE * (third - first)


def median_interval(samples: Sequence[float]) -> Estimate | None:
    """The median and an interval that holds for any distribution; None without samples.

    The interval runs between two order statistics, chosen by the binomial distribution so that it
    covers the true median with at least 95 %.
    """
    if not samples:
        return None
    ordered, count = sorted(samples), len(samples)
    middle = statistics.median(ordered)
    cut = _lowest_rank(count, (1 - CONFIDENCE) / 2)
    if cut is None:
        return Estimate(middle, None, None, count)
    return Estimate(middle, ordered[cut], ordered[count - 1 - cut], count)


def speedup(pairs: Sequence[tuple[float, float]]) -> Estimate | None:
    """How many times faster the second of each pair is; both were measured in the same round.

    The 20 % trimmed mean of the logarithms of the ratios, with its studentised interval: Student's
    t with the winsorised variance (Tukey and McLaughlin 1963; Yuen 1974,
    doi:10.1093/biomet/61.1.165). Swapping the sides of all pairs inverts it, and a few wild rounds
    do not move it.
    """
    if not pairs:
        return None
    logs = [math.log(first / second) for first, second in pairs]
    count = len(logs)
    if count < FEWEST:  # too few to trim: the median stands in, without an interval
        return Estimate(math.exp(statistics.median(logs)), None, None, count)
    mean = trimmed(logs)
    low, high = mean.centre - mean.reach(CONFIDENCE), mean.centre + mean.reach(CONFIDENCE)
    return Estimate(math.exp(mean.centre), math.exp(low), math.exp(high), count)


def percentile(samples: Sequence[float], share: float) -> float | None:
    """The percentile `share` (0.95 or 0.99) by nearest rank; None from too few samples for it."""
    if len(samples) < PERCENTILE_FLOORS[share]:
        return None
    return sorted(samples)[math.ceil(share * len(samples)) - 1]


@functools.cache
def t_quantile(freedom: int, confidence: float = CONFIDENCE) -> float:
    """The two-sided quantile of Student's t, by bisection of its distribution function.

    Ours, because importing a library for this one number would double the start of `tpprof report`.
    """
    low, high = 0.0, 10_000.0
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (
            (middle, high) if t_cdf_two_sided(middle, freedom) < confidence else (low, middle)
        )
    return high


def t_cdf_two_sided(reach: float, freedom: int) -> float:
    """P(|t| <= reach) for a whole number of degrees of freedom (Abramowitz and Stegun 26.7.3-4)."""
    angle = math.atan(reach / math.sqrt(freedom))
    square, odd = math.cos(angle) ** 2, freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for n in range(2 + odd, freedom - 1, 2):
        term *= square * (n - 1) / n
        total += term
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total


def _lowest_rank(count: int, tail: float) -> int | None:
    """The largest rank (from 0) below which the median lies with probability at most `tail`."""
    below, rank = 0.0, None
    for index in range(count // 2 + 1):
        below += math.comb(count, index) / 2**count
        if below > tail:
            return rank
        rank = index
    return rank
