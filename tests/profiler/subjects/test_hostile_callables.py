"""Whatever a callable does in its process, its row says so, and the others are complete."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from callables import hostile

import tpprof
from tpprof.profiler.subjects.renewal import MOST_SAMPLES
from tpprof.reports.record.schema import Cell

FILE = Path(hostile.__file__)
FAILING = {
    "raises": "ValueError: no such kernel (hostile.py line 23)",
    "raises_unsaid": "UnsaidError: (its message raises RuntimeError) (hostile.py line",
    "longer_each_time": "it does not do the same in each request: what it returned: list of 1",
    "exits": "it would end the program (SystemExit) (hostile.py line",
    "exits_at_once": "its process ended with exit code 0",
    "is_killed": "its process was ended by SIGKILL (out of memory?)",
    "leaves_a_child": "its process ended with exit code 9",
    "missing": "has no missing; it has ",
}
NOTED = {
    "leaks": "leaks: each request keeps 0.004 MB more",
    "prints": "prints in each request, on the clock",
    "forks": "forks processes in each request",
    "reads": "",
    "closes_its_streams": "",
}


@pytest.fixture(scope="module")
def cells() -> dict[str, Cell]:
    names = ("good", *FAILING, *NOTED, "dies_late")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(FILE.parent)
        record = tpprof.measure(
            {name: f"hostile.py:{name}" for name in names},
            rounds=1,
            device="cpu",
            passes=["flops", "activity"],
        )
    return {cell.method: cell for cell in record.cells}


@pytest.mark.parametrize("name", FAILING)
def test_one_that_fails_is_a_row_with_the_reason(name: str, cells: dict[str, Cell]) -> None:
    assert FAILING[name] in cells[name].error
    assert "\n" not in cells[name].error
    assert cells[name].samples == []


@pytest.mark.parametrize("name", NOTED)
def test_one_that_can_be_measured_is_with_a_note(name: str, cells: dict[str, Cell]) -> None:
    assert cells[name].error == ""
    assert cells[name].note.startswith(NOTED[name])
    assert len(cells[name].samples) == MOST_SAMPLES


def test_one_that_dies_late_keeps_its_samples(cells: dict[str, Cell]) -> None:
    late = cells["dies_late"]
    assert late.error == "its process ended with exit code 7"
    assert 0 < len(late.samples) < MOST_SAMPLES


def test_the_others_are_complete(cells: dict[str, Cell]) -> None:
    good = cells["good"]
    assert (good.error, good.note, len(good.samples)) == ("", "", MOST_SAMPLES)
    assert good.counted_flops == {"request": 2 * 8 * 8 * 8}
    assert good.callable is not None
    assert good.callable.process == "own"
    assert good.callable.returned == "Tensor[8, 8]"
    assert sum(part.operators for part in good.activity) > 0


def test_no_process_is_left(cells: dict[str, Cell]) -> None:
    own = Path(f"/proc/self/task/{os.getpid()}/children")
    if not own.exists():
        pytest.skip("this system does not list children")
    left = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in own.read_text().split()]
    assert not [line for line in left if b"tpprof_probe" in line]
