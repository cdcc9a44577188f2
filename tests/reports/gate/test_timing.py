"""What the timing gate decides from pairs that are made up; negative controls among them."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from tpprof.reports.gate import journal
from tpprof.reports.gate.rules import Rules, check_power, check_rules, split_level
from tpprof.reports.gate.timing import Batch, Key, Series, control_doubt, decide
from tpprof.reports.gate.verdicts import Gate, NoVerdictError, Verdict
from tpprof.reports.record.base import RecordError

KEY = ("fastv", "latency")


class Bench:
    """Pairs with a log-ratio of `effect`, after the first look `later`, and noise; `calls` are the
    counts that were asked for."""

    def __init__(
        self,
        effect: float,
        noise: float = 0.01,
        *,
        seconds: float = 0.1,
        later: float | None = None,
    ) -> None:
        self.effect, self.noise, self.seconds = effect, noise, seconds
        self.later = effect if later is None else later
        self.random = random.Random(5)
        self.calls: list[int] = []
        self.control = noise
        self.outlier = 0.0

    def __call__(self, pairs: int, keys: Sequence[Key]) -> Batch:
        self.calls.append(pairs)
        return Batch({key: self.series(pairs) for key in keys})

    def series(self, pairs: int) -> Series:
        effect = self.effect if len(self.calls) == 1 else self.later
        logs = [self.random.gauss(effect, self.noise) for _ in range(pairs)]
        if len(self.calls) == 1:
            logs[0] += self.outlier
        controls = [self.random.gauss(0, self.control) for _ in range(pairs)]
        return Series([(self.seconds, self.seconds * math.exp(log)) for log in logs], controls)


def rules(tolerance: float = 0.05, **more: object) -> Rules:
    return Rules(tolerance={"latency": tolerance}, **more)  # type: ignore[arg-type]


def verdict(bench: Bench, tolerance: float = 0.05) -> Verdict:
    (row,) = decide(bench, [KEY], rules(tolerance))
    return row.verdict


def test_no_change_passes_at_the_first_look() -> None:
    bench = Bench(0.0)
    assert verdict(bench) is Verdict.PASS
    assert bench.calls == [8]


def test_a_slow_down_fails_and_is_confirmed_once() -> None:
    bench = Bench(0.10)
    (row,) = decide(bench, [KEY], rules())
    assert row.verdict is Verdict.FAIL
    assert bench.calls == [8, 8]
    assert "confirmed by 8 new pairs" in row.rule
    assert row.values["confirmation_log_ratio"] == pytest.approx(0.10, abs=0.02)


def test_swapped_arms_improve() -> None:
    (row,) = decide(Bench(-0.10), [KEY], rules())
    assert row.verdict is Verdict.IMPROVED
    assert row.values["log_ratio"] == pytest.approx(-0.10, abs=0.02)


def test_a_fail_that_does_not_come_again_is_no_fail() -> None:
    (row,) = decide(Bench(0.10, later=0.0), [KEY], rules())
    assert row.verdict is Verdict.INCONCLUSIVE
    assert "not again in 8 new pairs" in row.rule


def test_a_fail_that_comes_again_unclearly_is_confirmed_by_more_pairs() -> None:
    bench = Bench(0.10)

    def take(pairs: int, keys: Sequence[Key]) -> Batch:
        bench.noise = 0.2 if len(bench.calls) == 1 else 0.01
        return bench(pairs, keys)

    (row,) = decide(take, [KEY], rules())
    assert row.verdict is Verdict.FAIL
    assert bench.calls == [8, 8, 8], "8 fail, the next 8 are too noisy, 16 confirm"
    assert "confirmed by 16 new pairs" in row.rule


def test_all_pairs_together_say_how_large_a_confirmed_slow_down_is() -> None:
    (row,) = decide(Bench(0.10, 0.02, later=0.045), [KEY], rules())
    assert row.verdict is Verdict.FAIL, "0.045 alone is below the tolerance, but beyond chance"
    (row,) = decide(Bench(0.10, 0.02, later=0.045), [KEY], rules(0.08))
    assert row.verdict is Verdict.INCONCLUSIVE, "all together are below it"


def test_a_confirmation_that_excludes_the_tolerance_confirms_nothing() -> None:
    (row,) = decide(Bench(0.10, 0.003, later=0.02), [KEY], rules())
    assert row.verdict is Verdict.INCONCLUSIVE
    assert "not again" in row.rule


def test_a_head_that_is_slow_now_and_then_does_not_pass() -> None:
    bench, number = Bench(0.0, 0.005), 0

    def take(pairs: int, keys: Sequence[Key]) -> Batch:
        nonlocal number
        batch = bench(pairs, keys)
        found = batch.series[KEY]
        for place in range(len(found.pairs)):
            number += 1
            if number % 5 == 0:
                base, head = found.pairs[place]
                found.pairs[place] = base, 2 * head
        return batch

    (row,) = decide(take, [KEY], rules())
    assert row.verdict is Verdict.INCONCLUSIVE
    assert "few pairs are far slower: with them it is +1" in row.rule


def test_a_head_that_breaks_in_the_confirmation_fails() -> None:
    bench = Bench(0.10)

    def take(pairs: int, keys: Sequence[Key]) -> Batch:
        broken = {KEY[0]: (Verdict.FAIL, "head fails: OutOfMemoryError")}
        return Batch(broken=broken) if bench.calls else bench(pairs, keys)

    (row,) = decide(take, [KEY], rules())
    assert row.verdict is Verdict.FAIL
    assert "OutOfMemoryError" in row.rule


@pytest.mark.parametrize("slower", [0.0, 0.0953])
def test_processes_of_two_modes_neither_fail_nor_hide(slower: float) -> None:
    modes = random.Random(0)

    def take(pairs: int, keys: Sequence[Key]) -> Batch:
        def second() -> float:
            return 0.1 * (1.125 if modes.random() < 0.5 else 1.0) * math.exp(modes.gauss(0, 0.01))

        times = [(second(), second() * math.exp(slower)) for _ in range(pairs)]
        controls = [math.log(second() / second()) for _ in range(pairs)]
        return Batch({key: Series(times, controls) for key in keys})

    (row,) = decide(take, [KEY], rules())
    assert (row.verdict is Verdict.FAIL) == (slower > 0)


def test_what_is_not_clear_takes_more_pairs_and_stays_open() -> None:
    bench = Bench(0.049, 0.03)
    assert verdict(bench) is Verdict.INCONCLUSIVE
    assert bench.calls == [8, 8, 8]


def test_small_but_certain_slow_downs_pass() -> None:
    assert verdict(Bench(0.02, 0.005)) is Verdict.PASS


def test_nothing_below_the_floor_fails() -> None:
    assert verdict(Bench(0.10, 0.001, seconds=100e-6)) is Verdict.PASS
    assert verdict(Bench(0.10, 0.001, seconds=0.1)) is Verdict.FAIL


@pytest.mark.parametrize("outlier", [math.log(2), -math.log(2)])
def test_one_wild_process_neither_fails_nor_hides(outlier: float) -> None:
    quiet, slow = Bench(0.0, 0.005), Bench(0.10, 0.005)
    quiet.outlier = slow.outlier = outlier
    assert verdict(quiet) is Verdict.PASS
    assert verdict(slow) is Verdict.FAIL


def test_a_wide_or_shifted_control_is_no_verdict() -> None:
    bench = Bench(0.0)
    bench.control = 0.3
    (row,) = decide(bench, [KEY], rules())
    assert row.verdict is Verdict.NO_VERDICT
    assert "A/A control" in row.rule
    assert bench.calls == [8, 8, 8], "more pairs may still calm it"
    assert "out of bounds" in control_doubt([0.03, 0.031, 0.029, 0.03], 0.05)
    assert "too wide" in control_doubt([0.1, -0.1, 0.1, -0.1], 0.05)
    assert "no A/A control" in control_doubt([], 0.05)
    assert control_doubt([0.001, -0.001, 0.002, -0.002], 0.05) == ""
    assert control_doubt([0.09, -0.04] * 12, 0.05) == "", "0.025, but no more than its own noise"
    assert "out of bounds" in control_doubt([0.03, 0.028] * 12, 0.05)


def test_a_slow_down_does_not_fail_while_the_control_is_out_of_bounds() -> None:
    bench = Bench(0.10)
    bench.control = 0.3
    assert verdict(bench) is Verdict.NO_VERDICT


def test_what_stops_the_measuring_is_no_verdict() -> None:
    def killed(pairs: int, keys: Sequence[Key]) -> Batch:
        return Batch(stopped="head was killed: process ended by SIGKILL")

    (row,) = decide(killed, [KEY], rules())
    assert (row.verdict, row.before) == (Verdict.NO_VERDICT, "n/a")
    assert "SIGKILL" in row.rule


def test_a_fail_that_cannot_be_confirmed_is_no_verdict() -> None:
    bench = Bench(0.10)

    def take(pairs: int, keys: Sequence[Key]) -> Batch:
        return Batch(stopped="the GPU was throttled") if bench.calls else bench(pairs, keys)

    (row,) = decide(take, [KEY], rules())
    assert row.verdict is Verdict.NO_VERDICT
    assert "could not be confirmed" in row.rule


def test_a_head_that_fails_is_a_regression_without_pairs() -> None:
    def fails(pairs: int, keys: Sequence[Key]) -> Batch:
        return Batch(broken={"fastv": (Verdict.FAIL, "head fails: OutOfMemoryError")})

    (row,) = decide(fails, [KEY], rules())
    assert row.verdict is Verdict.FAIL


def test_lost_pairs_are_too_few() -> None:
    def lossy(pairs: int, keys: Sequence[Key]) -> Batch:
        return Batch({KEY: Series([(0.1, 0.1)] * 2, [0.0])})

    (row,) = decide(lossy, [KEY], rules())
    assert row.verdict is Verdict.NO_VERDICT
    assert "too few pairs: 6" in row.rule


def test_only_what_is_open_is_measured_again() -> None:
    calm, wild = ("a", "latency"), ("b", "latency")
    asked = []
    quiet, open_ = Bench(0.0), Bench(0.049, 0.03)

    def take(pairs: int, keys: Sequence[Key]) -> Batch:
        asked.append(list(keys))
        return Batch({key: (quiet if key == calm else open_).series(pairs) for key in keys})

    rows = decide(take, [calm, wild], rules())
    assert [row.verdict for row in rows] == [Verdict.PASS, Verdict.INCONCLUSIVE]
    assert asked == [[calm, wild], [wild], [wild]]


def test_holm_makes_a_family_wait_for_more_pairs() -> None:
    bench = Bench(0.10)
    keys = [(cell, "latency") for cell in "abc"]
    rows = decide(bench, keys, rules())
    assert {row.verdict for row in rows} == {Verdict.FAIL}
    assert bench.calls == [8, 8, 8], "8 pairs have no p-value below 0.004 / 3; then a confirmation"


@pytest.mark.parametrize("looks", [[4], [6], [2, 6]])
def test_a_test_that_cannot_reject_is_refused(looks: list[int]) -> None:
    few = rules(looks=looks, alphas=split_level(len(looks)))
    with pytest.raises(NoVerdictError, match="can never fail"):
        decide(Bench(0.0), [KEY], few)


def test_a_family_too_large_for_its_pairs_is_refused() -> None:
    with pytest.raises(NoVerdictError, match="too few pairs are no pass"):
        check_power(rules(looks=[8], alphas=[0.01]), 6)
    check_power(rules(), 6)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"tolerance": {"speed": 0.1}}, "known: latency, prefill, decode"),
        ({"metrics": ["speed"]}, "known: latency, prefill, decode"),
        ({"metrics": []}, "one at least"),
        ({"tolerance": {"latency": 0.0}}, "a share above 0"),
        ({"tolerance": {"latency": math.nan}}, "a share above 0"),
        ({"looks": [7]}, "must be as many"),
        ({"looks": [7, 9, 11]}, "even numbers"),
        ({"looks": [16, 8, 24]}, "must grow"),
        ({"requests": 0}, "at least 1"),
        ({"requests": 10**9}, "at most 10000"),
        ({"alphas": [0.9, 0.1, 0.1]}, "at most 0.05"),
        ({"alphas": [0.02, 0.02, 0.02]}, "at most 0.05"),
        ({"metrics": ["latency", "latency"]}, "names one twice"),
        ({"floor": {"speed": 1e-5}}, "no such metric; known: latency, prefill, decode"),
        ({"floor": {"latency": -1.0}}, "must be from 0 to 0.001 s, not -1"),
        ({"floor": {"decode": 5e-4}}, "must be from 0 to 0.0004 s"),
        ({"floor": {"latency": 1000.0}}, "from 0 to 0.001 s"),
        ({"floor": {"latency": math.inf}}, "not inf"),
        ({"floor": {"latency": math.nan}}, "not nan"),
        ({"tolerance": {"latency": 10.0}}, "at most 1"),
        ({"tolerance": {"decode": math.inf}}, "at most 1"),
        ({"memory": -1.0}, "at most 0.25"),
        ({"memory": 1e308}, "at most 0.25"),
        ({"clock": 0.5}, "at most 0.1"),
        ({"looks": [8, 16, 10**6]}, "end at 1000"),
    ],
)
def test_rules_that_make_no_sense(given: dict[str, object], told: str) -> None:
    with pytest.raises(RecordError, match=told):
        check_rules(Rules(**{"tolerance": {"latency": 0.05}, **given}))  # type: ignore[arg-type]


@pytest.mark.parametrize("looks", [1, 2, 3, 4])
def test_the_level_is_spent_once(looks: int) -> None:
    assert sum(split_level(looks)) == pytest.approx(0.01)


def test_the_gravest_row_is_the_verdict() -> None:
    row = decide(Bench(0.0), [KEY], rules())
    assert (Gate("timing", "", row).verdict, Gate("timing", "", row).code) == (Verdict.PASS, 0)
    assert Gate("timing", "").code == 3, "a gate that judged nothing is no pass"
    slow = decide(Bench(0.10), [KEY], rules())
    assert Gate("timing", "", [*row, *slow]).code == 1


def test_a_journal_of_another_version_is_refused_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "gate.jsonl"
    path.write_text('{"type":"begun","schema":1}\n{"type":"ran"}\n')
    with pytest.raises(RecordError, match="schema 1 was written by an earlier tpprof"):
        journal.read(path)
