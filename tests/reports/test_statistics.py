"""Medians and their intervals."""

from __future__ import annotations

import random

import pytest

from tpprof.reports.statistics import median, ratios


def test_no_samples_give_no_estimate() -> None:
    assert median([]) is None


@pytest.mark.parametrize("count", range(1, 6))
def test_five_samples_are_too_few_for_an_interval(count: int) -> None:
    estimate = median([float(n) for n in range(count)])
    assert estimate is not None
    assert estimate.low is None
    assert estimate.high is None


@pytest.mark.parametrize(
    ("count", "low", "high"),
    # ranks from tables of the binomial distribution, confidence 95 %
    [(6, 1, 6), (8, 1, 8), (9, 2, 8), (10, 2, 9), (15, 4, 12), (20, 6, 15), (30, 10, 21)],
)
def test_the_interval_runs_between_the_tabulated_ranks(count: int, low: int, high: int) -> None:
    samples = [float(n) for n in range(1, count + 1)]
    random.Random(0).shuffle(samples)
    estimate = median(samples)
    assert estimate is not None
    assert (estimate.low, estimate.high) == (low, high)


def test_the_interval_covers_the_true_median_as_often_as_it_says() -> None:
    source = random.Random(1)
    covered = 0
    for _ in range(1000):
        estimate = median([source.lognormvariate(0, 1) for _ in range(12)])
        assert estimate is not None
        assert estimate.low is not None
        assert estimate.high is not None
        covered += estimate.low <= 1 <= estimate.high
    assert covered >= 940


def test_ratios_are_paired() -> None:
    estimate = ratios([10.0, 20.0, 30.0], [5.0, 10.0, 15.0])
    assert estimate is not None
    assert estimate.median == 2.0


def test_unequal_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])
