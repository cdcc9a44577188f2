"""Block after block: what runs, what is left after kills, and what is gone on with."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command import RUN
from record_builders import cell, record

from tpprof.methods import InputError
from tpprof.profiler.sweep.expansion import expand
from tpprof.profiler.sweep.run import begin, run
from tpprof.profiler.sweep.worker import BlockStep, BlockTask
from tpprof.reports.record import files
from tpprof.reports.record.schema import Record
from tpprof.reports.record.spec import RunSpec
from tpprof.reports.sweep.grid import Grid, load, record_of
from tpprof.reports.sweep.rows import grid_rows

Told = Callable[[BlockStep], None]


def grid_of(*sizes: int) -> Grid:
    spec = RunSpec.of(methods=["fastv"], model="tiny-llava", visual_tokens=64)
    return expand(spec, {"batch_size": sizes})


def save(made: Record, task: BlockTask) -> None:
    made.spec = task.spec
    files.save(made, Path(task.out), overwrite=True)


class Blocks:
    """In the place of processes that measure: blocks that end well, but for some."""

    def __init__(self, **failing: str) -> None:
        self.failing, self.ran = failing, list[int]()

    def __call__(self, task: BlockTask, told: Told) -> tuple[int, str]:
        size = task.spec.workload.batch_size
        self.ran.append(size)
        told(BlockStep(label="warm-up fastv", done=1, total=2))
        told(BlockStep(label="fastv", done=1, total=2))
        if f"b{size}" in self.failing:
            if self.failing[f"b{size}"] == "stop":
                raise KeyboardInterrupt
            return -9, self.failing[f"b{size}"]
        made = record(cell("vanilla", "rows", 2.0, 9), cell("fastv:keep=1/9", "rows", 1.0, 5))
        save(made, task)
        return 0, ""


def swept(
    grid: Grid, folder: Path, blocks: Blocks, *, resume: bool = False
) -> tuple[int, list[tuple[str, int, int]]]:
    told: list[tuple[str, int, int]] = []
    journal = begin(grid, folder, resume=resume)
    _, code = run(grid, folder, journal, lambda *step: told.append(step), blocks)
    return code, told


def test_blocks_run_one_after_another_and_the_bar_counts_cells(tmp_path: Path) -> None:
    code, told = swept(grid_of(1, 2, 3), tmp_path, Blocks())
    assert code == 0
    assert [(done, total) for _, done, total in told] == [
        (0, 6), (1, 6), (2, 6), (2, 6), (3, 6), (4, 6), (4, 6), (5, 6), (6, 6)
    ]  # fmt: skip
    assert told[0][0] == "batch size 1: warm-up fastv", "nothing is known of its time yet"
    assert told[2][0] == "batch size 1: done, less than 1 min left"
    assert told[-2][0] == "batch size 3: fastv, less than 1 min left"
    assert told[-1][0] == "batch size 3: done"
    assert load(tmp_path).complete


def test_how_long_it_takes_is_said_once_it_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two comparisons of two cells; each loads for 60 s, warms up for 20 s, and has ten rounds of
    two requests of 3 s, and then passes of 20 s: 320 s in all."""
    clock = 0.0
    monkeypatch.setattr("tpprof.profiler.sweep.run.now", lambda: clock)
    said: list[tuple[float, str]] = []

    def measure(task: BlockTask, told: Told) -> tuple[int, str]:
        nonlocal clock
        clock += 60
        for label, seconds, steps in (("warm-up x", 10, 2), ("x", 3, 20), ("energy of x", 10, 2)):
            for done in range(steps):
                told(BlockStep(label=label, done=done, total=steps))
                clock += seconds
        save(record(cell("vanilla", "rows", 2.0, 9)), task)
        return 0, ""

    def tell(label: str, done: int, total: int) -> None:
        said.append((clock, label.partition(", ")[2]))

    grid = grid_of(1, 2)
    run(grid, tmp_path, begin(grid, tmp_path, resume=False), tell, measure)
    assert {text for at, text in said if at < 86} == {""}, "loading and warming up say nothing"
    # 234 s, of which 40 are of passes, that one cannot know of yet.
    assert next(text for at, text in said if at >= 86) == "about 3 min left"
    assert [text for at, text in said if at == 160] == ["about 3 min left"]
    assert {text for at, text in said if 240 <= at < 260} == {"about 1 min left"}
    assert said[-1] == (320, "")


def test_what_fails_at_once_says_nothing_of_how_long_others_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 0.0
    monkeypatch.setattr("tpprof.profiler.sweep.run.now", lambda: clock)
    said: list[tuple[str, int]] = []

    def measure(task: BlockTask, told: Told) -> tuple[int, str]:
        nonlocal clock
        if not said:
            return 1, "it cannot be loaded"
        clock += 300
        save(record(cell("vanilla", "rows", 2.0, 9)), task)
        return 0, ""

    def tell(label: str, done: int, total: int) -> None:
        said.append((label.partition(", ")[2], done))

    grid = grid_of(1, 2, 3)
    run(grid, tmp_path, begin(grid, tmp_path, resume=False), tell, measure)
    assert said == [("", 2), ("about 5 min left", 4), ("", 6)]


def test_a_block_that_dies_is_rows_with_its_reason_and_is_tried_again(tmp_path: Path) -> None:
    first = Blocks(b2="process ended by SIGKILL (out of memory?)")
    code, _ = swept(grid_of(1, 2, 3), tmp_path, first)
    assert (code, first.ran) == (1, [1, 2, 3])
    listed = grid_rows(load(tmp_path))
    assert [row.reason for row in listed if row.block == 1] == [
        "process ended by SIGKILL (out of memory?)"
    ]
    assert all(row.row for row in listed if row.block != 1)
    again = Blocks()
    code, told = swept(grid_of(1, 2, 3), tmp_path, again, resume=True)
    assert (code, again.ran) == (0, [2]), "nothing twice"
    assert told[0][1:] == (4, 6), "those that ended count"
    assert not any(row.reason for row in grid_rows(load(tmp_path)))


def test_what_cannot_be_planned_is_not_run(tmp_path: Path) -> None:
    grid, blocks = grid_of(1, 2), Blocks()
    grid.blocks[0].problem = "no such model"
    code, _ = swept(grid, tmp_path, blocks)
    assert (code, blocks.ran) == (1, [2])
    assert grid_rows(load(tmp_path))[0].reason == "no such model"


def test_ctrl_c_ends_it_with_what_was_measured(tmp_path: Path) -> None:
    code, _ = swept(grid_of(1, 2, 3), tmp_path, Blocks(b2="stop"))
    assert code == 130
    assert [one is not None for one in load(tmp_path).records] == [True, False, False]


def test_only_the_same_grid_is_gone_on_with(tmp_path: Path) -> None:
    swept(grid_of(1, 2), tmp_path, Blocks())
    with pytest.raises(InputError, match="holds a sweep: go on with it by --resume"):
        begin(grid_of(1, 2), tmp_path, resume=False)
    with pytest.raises(InputError, match="the same grid only"):
        begin(grid_of(1, 3), tmp_path, resume=True)


def test_records_of_another_comparison_are_no_part_of_a_sweep(tmp_path: Path) -> None:
    """They lie in the folder, by the name of a block that has not run."""
    swept(grid_of(4, 5), tmp_path / "other", Blocks())
    foreign = record_of(tmp_path / "other", 0)
    strays = tmp_path / "strays"
    strays.mkdir()
    shutil.copy(foreign, strays)
    for resume in (False, True):
        with pytest.raises(InputError, match=r"strays holds block-000.json, and no sweep"):
            begin(grid_of(1, 2), strays, resume=resume)
    swept(grid_of(1, 2), tmp_path / "s", Blocks())
    shutil.copy(foreign, record_of(tmp_path / "s", 1))
    found = load(tmp_path / "s")
    assert found.records[1] is None
    assert not found.complete
    assert found.reasons == {1: "block-001.json is the record of another comparison"}
    again = Blocks()
    swept(grid_of(1, 2), tmp_path / "s", again, resume=True)
    assert again.ran == [2], "it does not count as this one's"


def test_a_sweep_that_is_killed_goes_on_and_measures_nothing_twice(tmp_path: Path) -> None:
    """Two models, two methods, two budgets; SIGKILL as soon as the second block has samples."""
    command = [
        *(*RUN, "sweep", "fastv", "random", "--keep", "1/2,1/4", "--rounds", "6"),
        *("--model", "tiny-llava,tiny-qwen2-vl", "--device", "cpu", "--visual-tokens", "16"),
        *("--text-tokens", "1,1", "--passes", "none", "--attention", "rows", "--out", "s"),
    ]
    folder = tmp_path / "s"
    second = files.journal_of(record_of(folder, 1))
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        while not (second.exists() and b'"type":"sample"' in second.read_bytes()):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    first, kept = record_of(folder, 0).read_bytes(), samples_of(second)
    assert kept
    done = subprocess.run([*command, "--resume"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert record_of(folder, 0).read_bytes() == first, "the first block is not measured again"
    assert kept <= samples_of(record_of(folder, 1)), "nothing is lost"
    sweep = load(folder)
    assert sweep.complete
    for one in sweep.records:
        assert one is not None
        assert len(one.cells) == 5
        for measured in one.cells:
            rounds = [taken.round for taken in measured.samples]
            assert len(set(rounds)) == len(rounds) >= 6


def samples_of(path: Path) -> set[float]:
    return {taken.began for one in files.load_run(path).cells for taken in one.samples}
