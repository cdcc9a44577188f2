"""The order of cells, and when it is enough."""

from __future__ import annotations

import itertools
import re
from collections import Counter

import pytest
from record_builders import cell, record, sample

from tpprof.methods.contract.errors import InputError
from tpprof.profiler.run import rounds
from tpprof.profiler.run.comparison import Comparison
from tpprof.reports.record.schema import Record
from tpprof.reports.record.spec import OptionError, RunSpec, changed


def test_two_cells_are_measured_abba() -> None:
    assert [rounds.order(2, number) for number in range(4)] == [[0, 1], [1, 0], [1, 0], [0, 1]]


@pytest.mark.parametrize("count", range(1, 9))
def test_order_is_balanced_for_turn_and_for_what_comes_before(count: int) -> None:
    listed = [rounds.order(count, number) for number in range(2 * count)]
    assert all(sorted(order) == list(range(count)) for order in listed)
    turns = Counter((turn, cell) for order in listed for turn, cell in enumerate(order))
    assert set(turns.values()) == {2}
    assert len(turns) == count**2
    follows = Counter(pair for order in listed for pair in itertools.pairwise(order))
    assert len(follows) == count * (count - 1)
    assert set(follows.values()) <= {2}


def noisy(spread: float, count: int) -> Record:
    """A record whose samples lie `spread` around 1 s."""
    run = record(cell("vanilla", "rows", 1.0, 1))
    run.cells[0].samples = [
        sample(number, 1.0 + spread * (-1) ** number) for number in range(count)
    ]
    return run


def test_it_ends_when_every_cell_is_precise_enough() -> None:
    assert rounds.enough(noisy(0.001, 6), 6, spent=0.0)
    assert not rounds.enough(noisy(0.1, 6), 6, spent=0.0)


def test_precision_is_looked_at_after_a_round_and_its_mirror() -> None:
    assert not rounds.enough(noisy(0.001, 7), 7, spent=0.0)
    assert rounds.enough(noisy(0.001, 8), 8, spent=0.0)


def test_five_rounds_never_count_as_precise() -> None:
    run = noisy(0.0, 4)
    run.spec = changed(run.spec, min_rounds=2)
    assert not rounds.enough(run, 4, spent=0.0)


def test_limits_hold_whatever_the_precision() -> None:
    run = noisy(0.1, 9)
    assert not rounds.enough(noisy(0.001, 4), 4, spent=1e9), "min_rounds"
    assert rounds.enough(run, 9, spent=60.0), "max_seconds"
    assert not rounds.enough(run, 9, spent=24.9)
    assert rounds.enough(run, 200, spent=0.0), "max_rounds"
    run.spec = changed(run.spec, max_seconds=None)
    assert not rounds.enough(run, 9, spent=1e9)


def test_failed_cells_hold_nothing_up() -> None:
    run = noisy(0.001, 6)
    run.cells.append(cell("random", "rows", 1.0, 1, samples=[], error="boom"))
    assert rounds.enough(run, 6, spent=0.0)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"runtime": ["eager", "eager"]}, "--runtime eager,eager names one twice"),
        ({"min_rounds": 0}, "--min-rounds must be a whole number at least 1"),
        ({"max_rounds": 3}, "--max-rounds 3 is below --min-rounds 6"),
        ({"target_ci": 0.0}, "--target-ci must be a number above 0"),
        ({"target_ci": float("nan")}, "--target-ci must be a number above 0 .* not nan"),
        ({"max_seconds": float("nan")}, "--max-seconds must be a .*number"),
        ({"max_seconds": float("inf")}, "--max-seconds must be a number .*not inf"),
        ({"max_seconds": -1.0}, "--max-seconds must be a number"),
        ({"samples": 3}, "--samples is per process: it needs --isolate"),
        ({"samples": 0}, "--samples must be a whole number at least 1"),
    ],
)
def test_limits_that_cannot_be_met_are_refused(options: dict[str, object], told: str) -> None:
    with pytest.raises(OptionError) as refused:
        RunSpec.of(**options)
    assert re.match(f".*{told}", refused.value.as_flag)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"attention": ["all"]}, "known: rows, maps, published"),
        ({"runtime": ["fast"]}, "known: eager, graph, compile"),
    ],
)
def test_policies_and_runtimes_that_do_not_exist_are_refused(
    options: dict[str, object], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        Comparison(RunSpec.of(**options))


def test_the_next_round_lies_behind_all_that_have_samples() -> None:
    assert rounds.begun(noisy(0.1, 4)) == 4
    assert rounds.begun(noisy(0.1, 0)) == 0


def test_a_round_that_was_broken_off_does_not_count() -> None:
    run = noisy(0.001, 6)
    run.cells.append(cell("random", "rows", 1.0, 1))
    del run.cells[1].samples[2]
    assert rounds.complete(run) == 5
    run.cells.append(cell("pooling", "rows", 1.0, 1, samples=[], error="boom"))
    assert rounds.complete(run) == 5, "a failed cell holds nothing up"
    for failed in run.cells:
        failed.error = "boom"
    assert rounds.complete(run) == 0
