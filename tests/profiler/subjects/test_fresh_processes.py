"""Rounds of callables: fresh processes, as many samples as they are worth, and honest intervals."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch

from tpprof.profiler.run import rounds
from tpprof.profiler.run.bench import Bench
from tpprof.profiler.run.comparison import Comparison
from tpprof.profiler.subjects.callable_cell import CallableCell
from tpprof.profiler.subjects.callables import Given
from tpprof.profiler.subjects.renewal import MOST_SAMPLES, fresh_processes
from tpprof.reports.analysis.summary import rows
from tpprof.reports.record.schema import Record
from tpprof.reports.record.spec import RunSpec

LOOKS = {
    "dtype of its weights": "",
    "tokens entering the decoder layers": [],
    "tokens generated": None,
    "what it returned": "int",
}


class Simulated:
    """A probe whose requests take simulated time: noise of 2 %, a slow tail, a drift that all
    share, and for as long as a process lives a luck of its own of 1 %. slower: its true ratio."""

    source = random.Random(11)
    clock = 0.0

    def __init__(self, slower: float = 1.0) -> None:
        self.slower, self.started, self.luck = slower, 0, 1.0

    def load(self, name: str, **given: Any) -> dict[str, Any]:
        self.started += 1
        self.luck = math.exp(self.source.gauss(0, 0.01))
        return {"sha256": "", "file": "", "executable": "", "own_inputs": True, "model_class": ""}

    def timed(self) -> dict[str, Any]:
        seconds = self.slower * self.luck * math.exp(self.source.gauss(0, 0.02))
        seconds *= 1 + 0.05 * math.sin(Simulated.clock / 40)
        seconds *= 2 if self.source.random() < 0.03 else 1
        Simulated.clock += seconds
        habits = {"printed": 0, "forked": 0, "threads": 0, "marks": [], "host": {}}
        parts = [["request", "call", None, seconds]]
        return {
            "latency": seconds,
            "began": Simulated.clock,
            "parts": parts,
            "looks": LOOKS,
            **habits,
        }

    def counted(self) -> dict[str, Any]:
        found = {"kv_prefill": [], "kv_decode": [], "vision": False, "lacking": "a function"}
        return {"looks": LOOKS, "faults": [], "padding": [], **found}

    def kept(self) -> dict[str, int]:
        return {"tensors": 0, "resident": 0}

    def peak(self) -> dict[str, Any]:
        return {"resident": None}

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def same_luck_for_each_test() -> None:
    Simulated.source, Simulated.clock = random.Random(11), 0


def simulated(slower: float = 1.0) -> tuple[Record, list[CallableCell]]:
    """A record of two callables of the same code, of which the second is so much slower."""
    spec = RunSpec.of(callable=["one=m:f", "other=m:f"], device="cpu", rounds=12)
    run = Comparison(spec, given=Given({}))
    cells: list[CallableCell] = []
    for cell, ratio in zip(run.cells, (1.0, slower), strict=True):
        assert isinstance(cell, CallableCell)
        cell.worker = Simulated(ratio)  # type: ignore[assignment]
        cell.saved.warmups = [1.0]
        cells.append(cell)
    return run.record, cells


def measure(record: Record, cells: list[CallableCell], bench: Bench, samples: int) -> None:
    """Rounds as a run has them, with so many samples each."""

    def begin(number: int) -> int:
        fresh_processes(cells, bench.renew, number)
        return samples

    def take(index: int, number: int, turn: int) -> None:
        sample = bench.sample(cells[index], number, turn, 0)
        assert sample is not None
        record.cells[index].samples.append(sample)

    for cell in cells:
        cell.start(bench.tools)
        cell.saved.samples.clear()
    rounds.follow(lambda: record, take, lambda *_: None, lambda *_: "", begin=begin)


def test_a_a_covers_one_in_93_of_100_and_a_known_ratio_too() -> None:
    covered = 0
    record, cells = simulated()
    with Bench(torch.device("cpu")) as bench:
        for _ in range(100):
            measure(record, cells, bench, samples=5)
            gain = rows(record)[1].speedup
            assert gain is not None
            assert gain.low is not None
            assert gain.high is not None
            covered += gain.low <= 1 <= gain.high
        assert covered >= 93
        record, cells = simulated(slower=1.10)
        measure(record, cells, bench, samples=5)
    gain = rows(record)[1].speedup
    assert gain is not None
    assert gain.high is not None
    assert gain.high < 1


def test_from_one_process_each_the_interval_would_be_wrong() -> None:
    """What fresh processes are for: samples of the same two hold their luck for the truth."""
    covered = 0
    record, cells = simulated()
    with Bench(torch.device("cpu")) as bench:
        for _ in range(100):
            for cell in cells:
                cell.info.process = "shared"
            measure(record, cells, bench, samples=5)
            gain = rows(record)[1].speedup
            assert gain is not None
            assert gain.low is not None
            assert gain.high is not None
            covered += gain.low <= 1 <= gain.high
    assert covered < 85


@pytest.mark.parametrize(
    ("starting", "samples"), [(0.0, 1), (0.5, 1), (3.1, 6), (1000.0, MOST_SAMPLES)]
)
def test_a_round_has_as_many_samples_as_starting_takes(starting: float, samples: int) -> None:
    _, cells = simulated()
    for cell in cells:
        cell.starting, cell.saved.warmups = starting, [1.5, 0.5]
    renewed: list[CallableCell] = []
    assert fresh_processes(cells, renewed.append, 0) == samples
    assert renewed == [], "they were fresh"
    fresh_processes(cells, renewed.append, 1)
    fresh_processes(cells, renewed.append, 2)
    assert renewed == [*cells, *cells[::-1]]
    cells[0].saved.error = "it failed"
    renewed.clear()
    fresh_processes(cells, renewed.append, 3)
    assert renewed == cells[1:]


def test_a_process_that_fails_to_start_again_ends_its_row_alone() -> None:
    record, cells = simulated()

    def fails(name: str, **given: Any) -> dict[str, Any]:
        raise ValueError("no memory for it")

    with Bench(torch.device("cpu")) as bench:
        bench.renew(cells[0])
        cells[1].worker.load = fails  # type: ignore[method-assign]
        bench.renew(cells[1])
    assert [cell.error for cell in record.cells] == ["", "ValueError: no memory for it"]


@pytest.mark.parametrize(("fresh", "starts"), [(True, 4), (False, 1)])
def test_where_this_process_is_one_of_several_theirs_live_as_long(fresh: bool, starts: int) -> None:
    """A gate's: its own process is the unit, and each of its requests one sample."""
    spec = RunSpec.of(callable=["one=m:f"], device="cpu", rounds=4, passes=[])
    run = Comparison(spec, given=Given({}), fresh=fresh)
    (cell,) = run.cells
    assert isinstance(cell, CallableCell)
    cell.worker = worker = Simulated()  # type: ignore[assignment]
    run.run()
    assert not cell.saved.error
    assert worker.started == starts
    assert {sample.round for sample in cell.saved.samples} == set(range(4))
    assert fresh or len(cell.saved.samples) == 4
