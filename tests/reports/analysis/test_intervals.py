"""Estimates and their intervals."""

from __future__ import annotations

import math
import random

import pytest
from scipy.special import stdtrit
from scipy.stats import mstats

from tpprof.reports.analysis.intervals import median_interval, percentile, speedup, t_quantile


def test_no_samples_give_no_estimate() -> None:
    assert median_interval([]) is None
    assert speedup([]) is None


@pytest.mark.parametrize("count", range(1, 6))
def test_five_samples_are_too_few_for_an_interval(count: int) -> None:
    for estimate in (
        median_interval([1.0 + n for n in range(count)]),
        speedup([(2.0, 1.0)] * count),
    ):
        assert estimate is not None
        assert estimate.low is None
        assert estimate.high is None
        assert estimate.precision is None


@pytest.mark.parametrize(
    ("count", "low", "high"),
    # ranks from tables of the binomial distribution, confidence 95 %
    [(6, 1, 6), (8, 1, 8), (9, 2, 8), (10, 2, 9), (15, 4, 12), (20, 6, 15), (30, 10, 21)],
)
def test_the_interval_runs_between_the_tabulated_ranks(count: int, low: int, high: int) -> None:
    samples = [float(n) for n in range(1, count + 1)]
    random.Random(0).shuffle(samples)
    estimate = median_interval(samples)
    assert estimate is not None
    assert (estimate.low, estimate.high) == (low, high)
    assert estimate.precision == pytest.approx((high - low) / (count + 1))


def test_the_interval_covers_the_true_median_as_often_as_it_says() -> None:
    source = random.Random(1)
    covered = 0
    for _ in range(1000):
        estimate = median_interval([source.lognormvariate(0, 1) for _ in range(12)])
        assert estimate is not None
        assert estimate.low is not None
        assert estimate.high is not None
        covered += estimate.low <= 1 <= estimate.high
    assert covered >= 940


def test_a_speedup_is_the_trimmed_mean_of_paired_ratios() -> None:
    source = random.Random(2)
    pairs = [(source.lognormvariate(0.7, 0.1), 1.0) for _ in range(17)]
    estimate = speedup(pairs)
    assert estimate is not None
    logs = [math.log(first / second) for first, second in pairs]
    assert estimate.value == pytest.approx(math.exp(mstats.trimmed_mean(logs, (0.2, 0.2))))
    assert estimate.samples == 17


def test_swapping_the_sides_inverts_the_speedup() -> None:
    source = random.Random(3)
    pairs = [(source.lognormvariate(0, 0.3), source.lognormvariate(0.2, 0.3)) for _ in range(11)]
    there, back = speedup(pairs), speedup([(b, a) for a, b in pairs])
    assert there is not None
    assert back is not None
    assert there.low is not None
    assert back.high is not None
    assert there.value * back.value == pytest.approx(1)
    assert there.low * back.high == pytest.approx(1)


def test_one_wild_round_does_not_move_a_speedup() -> None:
    calm = [(2.0 + n / 100, 1.0) for n in range(10)]
    estimate, wild = speedup(calm), speedup([*calm[:-1], (40.0, 1.0)])
    assert estimate is not None
    assert wild is not None
    assert wild.value == pytest.approx(estimate.value, rel=0.01)


@pytest.mark.parametrize("rounds", [6, 12, 40])
def test_the_interval_of_a_speedup_covers_as_often_as_it_says(rounds: int) -> None:
    """Drift common to a round, and a slow tail: 5 % of the requests take half as long again."""
    source, covered = random.Random(rounds), 0

    def request(drift: float) -> float:
        return math.exp(drift + source.gauss(0, 0.05)) * (1.5 if source.random() < 0.05 else 1)

    for _ in range(1000):
        drifts = [source.gauss(0, 0.2) for _ in range(rounds)]
        estimate = speedup([(request(drift), request(drift)) for drift in drifts])
        assert estimate is not None
        assert estimate.low is not None
        assert estimate.high is not None
        covered += estimate.low <= 1 <= estimate.high
    assert covered >= 935


@pytest.mark.parametrize(("share", "floor", "rank"), [(0.95, 100, 95), (0.99, 662, 656)])
def test_percentiles_need_enough_samples(share: float, floor: int, rank: int) -> None:
    samples = [float(n) for n in range(1, floor + 1)]
    assert percentile(samples[:-1], share) is None
    assert percentile(samples, share) == rank


@pytest.mark.parametrize("freedom", [*range(1, 31), 100, 401])
def test_quantiles_of_student_are_those_of_scipy(freedom: int) -> None:
    assert t_quantile(freedom) == pytest.approx(stdtrit(freedom, 0.975), rel=1e-9)
