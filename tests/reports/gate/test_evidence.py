"""The gate's statistics against scipy, and the properties that its claims rest on."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from scipy import stats

from tpprof.reports.analysis.intervals import Mean, fenced
from tpprof.reports.gate.abba import blocks
from tpprof.reports.gate.evidence import (
    Evidence,
    clipped,
    detectable,
    hodges_lehmann,
    holm,
    quantile,
    sign_flip,
    tail,
)


def draws(count: int, mean: float = 0.0, seed: int = 0) -> list[float]:
    generator = random.Random(seed)
    return [generator.gauss(mean, 1.0) for _ in range(count)]


@pytest.mark.parametrize("count", [2, 7, 8, 11])
@pytest.mark.parametrize("mean", [-0.5, 0.0, 1.0])
def test_sign_flips_are_those_of_scipy(count: int, mean: float) -> None:
    values = draws(count, mean, seed=count)
    theirs = stats.permutation_test(
        (np.array(values),),
        np.sum,
        permutation_type="samples",
        alternative="greater",
        n_resamples=np.inf,
    )
    assert sign_flip(values) == pytest.approx(theirs.pvalue, abs=1e-12)


def test_sign_flips_of_24_pairs_are_exact() -> None:
    assert sign_flip([0.1 * n for n in range(1, 25)]) == 2.0**-24
    values = draws(24, 0.3)
    assert sign_flip(values) + sign_flip([-value for value in values]) >= 1
    many = np.random.default_rng(1).choice([-1, 1], (100_000, 24)) * np.abs(values)
    share = float((many.sum(1) >= sum(values)).mean())
    assert sign_flip(values) == pytest.approx(share, abs=4 * math.sqrt(share / 100_000))


def test_equal_signs_can_reject_from_seven_pairs() -> None:
    assert sign_flip([1.0] * 6) > 0.01 > sign_flip([1.0] * 7)


def test_clipping_depends_on_sizes_alone() -> None:
    values = draws(16, seed=3)
    flipped = [-value if n % 3 else value for n, value in enumerate(values)]
    assert [abs(v) for v in clipped(values)] == [abs(v) for v in clipped(flipped)]
    assert clipped([0.1] * 7 + [-0.7]) == [0.1] * 7 + [-0.1]
    assert clipped(calm := [0.1, -0.2, 0.3, -0.4]) == calm


@pytest.mark.parametrize("freedom", [1, 3, 5, 15])
@pytest.mark.parametrize("alpha", [0.004, 0.01, 0.2])
def test_quantiles_and_tails_are_students(freedom: int, alpha: float) -> None:
    t = quantile(freedom, alpha)
    assert t == pytest.approx(stats.t.isf(alpha, freedom), rel=1e-8)
    assert tail(Mean(t, 1.0, freedom)) == pytest.approx(alpha)
    assert tail(Mean(-t, 1.0, freedom)) == pytest.approx(1 - alpha)


def test_without_wild_values_the_bound_is_students() -> None:
    values = [math.copysign(1.0, value) + 0.1 * value for value in draws(16, 0.4)]
    evidence = Evidence.of(values)
    theirs = stats.ttest_1samp(values, 0.0, alternative="greater")
    assert evidence.mean.centre == pytest.approx(np.mean(values))
    assert evidence.low(0.01) == pytest.approx(theirs.confidence_interval(0.99).low)
    assert tail(evidence.mean) == pytest.approx(theirs.pvalue)


def test_wild_values_are_pulled_in_to_the_fences() -> None:
    values = draws(16, 0.4)
    first, third = np.percentile(values, [25, 75])
    fence = third + 1.5 * (third - first)
    assert fenced([*values[1:], fence]) == fenced([*values[1:], 50.0]) != fenced(values)


def test_swapped_arms_turn_the_sign() -> None:
    values = draws(16, 0.4)
    there, back = Evidence.of(values), Evidence.of([-value for value in values])
    assert back.mean.centre == pytest.approx(-there.mean.centre)
    assert back.middle == pytest.approx(-there.middle)
    assert back.low(0.01) == pytest.approx(-there.high(0.01))


def test_holm() -> None:
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03}, 3)
    assert adjusted == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.01}, 5) == {"a": 0.05}, "those decided before are counted"


def test_small_helpers() -> None:
    assert hodges_lehmann([1.0, 2.0, 9.0]) == 3.5
    theirs = (stats.t.isf(0.01, 7) + stats.t.isf(0.2, 7)) / math.sqrt(8)
    assert detectable(8, 0.01) == pytest.approx(theirs)


def test_blocks_balance_the_arms_and_the_drift() -> None:
    listed = list(blocks(8))
    assert [block.order for block in listed] == ["ABBA", "BAAB", "ABBA", "BAAB"]
    drift = [math.exp(0.01 * n) for n in range(4)]
    pairs = [pair for block in listed for pair in block.pairs(drift)]
    assert sum(math.log(head / base) for base, head in pairs) == pytest.approx(0)
    assert sum(c for block in listed for c in block.controls(drift)) == pytest.approx(0)
    assert len(pairs) == 8
    broken = listed[0].pairs([1.0, None, 1.0, 2.0])
    assert broken == [(2.0, 1.0)]
    assert listed[0].controls([None, 1.0, 2.0, 1.0]) == [math.log(2)], "the head's alone"
