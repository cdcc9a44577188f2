"""`tpprof sweep --accuracy` on a small stand-in: ended in the midst of questions, gone on with."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from pope_files import save_checkpoint, write_pope
from warm_children import STOPPED

from tpprof.profiler import subprocesses
from tpprof.profiler.accuracy import beside
from tpprof.profiler.run.recording import measure
from tpprof.profiler.sweep.expansion import expand, plan
from tpprof.profiler.sweep.run import begin, run
from tpprof.profiler.sweep.worker import BlockStep, BlockTask
from tpprof.reports.record import files
from tpprof.reports.record.spec import RunSpec
from tpprof.reports.sweep.grid import Grid, record_of
from tpprof.reports.sweep.page import render_sweep
from tpprof.reports.sweep.tables import grid_table

pytestmark = pytest.mark.usefixtures("warm_children")
QUESTIONS = 18
Finish = Callable[[list[str], bytes], tuple[int, str]]


class Killed(BaseException):
    """In the place of SIGKILL: nothing behind it is done."""


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    """Two comparisons of three methods and two budgets, on a checkpoint without sense."""
    write_pope(tmp_path, pictures=3)
    save_checkpoint(tmp_path / "model")
    spec = RunSpec.of(
        methods=["fastv", "random", "visionzip"],
        model=str(tmp_path / "model"),
        device="cpu",
        rounds=1,
        passes=(),
        attention=["rows"],
        accuracy=True,
        annotations=str(tmp_path / "annotations"),
        images=str(tmp_path / "val2014"),
    )
    made = expand(spec, {"keep": ["9", "4"], "batch_size": [1, 2]})
    plan(made)
    assert [block.problem for block in made.blocks] == ["", ""]
    return made


def here(task: BlockTask, told: Callable[[BlockStep], None]) -> tuple[int, str]:
    """A block in this process."""

    def tell(label: str, done: int, total: int) -> None:
        told(BlockStep(label=label, done=done, total=total))

    return measure(task.spec, Path(task.out), tell, resume=True).code, ""


def test_what_is_killed_while_it_asks_asks_nothing_twice_and_loses_nothing(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, asked, finish = tmp_path / "s", list[files.Answered](), subprocesses.finish

    def watched(command: list[str], task: bytes) -> tuple[int, str]:
        ended = finish(command, task)
        path = Path(msgspec.json.decode(task)["out"])
        asked.extend(_answered(path))
        return ended

    def killed_in_the_second(command: list[str], task: bytes) -> tuple[int, str]:
        if not record_of(folder, 0).exists():
            return watched(command, task)
        finish([*command[:-1], command[-1].partition("from tpprof")[0] + STOPPED], task)
        raise Killed

    monkeypatch.setattr(beside, "finish", killed_in_the_second)
    steps: list[tuple[str, int, int]] = []
    with pytest.raises(Killed):
        run(grid, folder, begin(grid, folder, resume=False), lambda *s: steps.append(s), here)
    assert any("accuracy, answers" in label for label, _, _ in steps)
    # Elsewhere: the journal here belongs to this process, which lives on.
    folder = Path(shutil.copytree(folder, tmp_path / "again"))
    first = record_of(folder, 0).read_bytes()
    held = _answered(files.journal_of(record_of(folder, 1)))
    assert len(held) == 1
    monkeypatch.setattr(beside, "finish", watched)
    asked.clear()
    sweep, code = run(grid, folder, begin(grid, folder, resume=True), lambda *_: None, here)
    assert code == 0
    assert record_of(folder, 0).read_bytes() == first, "the first one is left alone"
    lines = [*held, *asked]
    places = Counter((line.row, place) for line in lines for place in line.places)
    assert set(places.values()) == {1}, "nothing is asked twice"
    assert len(places) == 7 * QUESTIONS
    for record in sweep.records:
        assert record is not None
        assert [len(cell.samples) for cell in record.cells] == [1] * 7
    one, other = (record.accuracy for record in sweep.records if record)
    assert one is not None
    assert other is not None
    kept = [other.answers[held[0].row].texts[place] for place in held[0].places]
    assert kept == held[0].texts, "nothing is lost"
    assert one.answers == other.answers, "whatever the batch of the timed request"
    values = grid_table(sweep).to_values()
    assert all(row["f1"] is not None and row["questions"] == QUESTIONS for row in values)
    assert "Speed-up and F1" in render_sweep(sweep, "s")


def test_why_nothing_was_answered_is_said_and_the_exit_code_tells(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "s"
    del grid.blocks[1]
    monkeypatch.setattr(beside, "finish", lambda command, task: (-9, "process ended by SIGKILL"))
    sweep, code = run(grid, folder, begin(grid, folder, resume=False), lambda *_: None, here)
    assert code == 1
    table = grid_table(sweep)
    told = "failed: process ended by SIGKILL"
    assert table.warnings == [f"7 of 7 cells did not answer the questions: {told}"]
    assert {row["accuracy_reason"] for row in table.to_values()} == {told}
    assert not any(row["reason"] for row in table.to_values()), "their times are there"


def test_questions_that_cannot_be_asked_are_a_row_with_the_reason() -> None:
    spec = RunSpec.of(methods=["fastv"], device="cpu", accuracy=True, questions=15)
    made = expand(spec, {"model": ["seer", "tiny-llava"]})
    plan(made)
    few, blind = (block.problem for block in made.blocks)
    assert few.startswith("--questions 15: about drawn pictures there are 16 at least")
    assert "its accuracy needs questions: give --annotations" in blind


def _answered(path: Path) -> list[files.Answered]:
    lines = path.read_bytes().splitlines()
    return [
        msgspec.json.decode(line, type=files.Answered)
        for line in lines
        if b'"type":"answered"' in line
    ]
