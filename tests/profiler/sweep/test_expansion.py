"""A grid from options, and what is planned of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import in_this_process

from tpprof.methods import InputError
from tpprof.profiler.sweep import expansion
from tpprof.profiler.sweep.expansion import expand, plan
from tpprof.reports.record.spec import OptionError, RunSpec
from tpprof.reports.sweep.rows import titles

SPEC = RunSpec.of(
    methods=["fastv", "random", "fastv:keep=9", "vanilla"], model="tiny-llava", visual_tokens=64
)


def test_models_and_requests_are_blocks_in_which_methods_and_budgets_are_compared() -> None:
    grid = expand(
        SPEC, {"batch_size": (1, 2), "model": ("tiny-llava", "tiny"), "keep": ("1/2", "16")}
    )
    assert [(b.spec.model.name, b.spec.workload.batch_size) for b in grid.blocks] == [
        ("tiny-llava", 1),
        ("tiny-llava", 2),
        ("tiny", 1),
        ("tiny", 2),
    ]
    assert titles(grid)[3] == "tiny, batch size 2"
    listed = ["fastv:keep=1/2", "fastv:keep=16", "random:keep=1/2", "random:keep=16"]
    for block in grid.blocks:
        assert list(block.spec.cells.methods) == [*listed, "fastv:keep=9", "vanilla"]
        assert [cell.keep for cell in block.cells] == ["1/2", "16", "1/2", "16", "9", None]
        assert [cell.base for cell in block.cells][:2] == ["fastv", "fastv"]


def test_a_value_that_is_listed_twice_is_measured_once() -> None:
    axes = {"batch_size": (1, 2, 1), "model": ("tiny", "tiny"), "keep": ("1/2", "1/2", "50%")}
    grid = expand(SPEC, axes)
    assert titles(grid) == ["batch size 1", "batch size 2"]
    assert [cell.method for cell in grid.blocks[0].cells[:2]] == [
        "fastv:keep=1/2",
        "random:keep=1/2",
    ]


def test_sizes_of_pictures_stand_as_they_are_typed() -> None:
    spec = RunSpec.of(methods=["fastv"], model="tiny-llava")
    grid = expand(spec, {"image_size": (((84, 96),), ((84, 96), (72, 72)))})
    assert titles(grid) == ["image size 84x96", "image size 84x96 and 72x72"]


def test_equalized_budgets_are_blocks_of_their_own() -> None:
    from tpprof.reports.record.spec import changed

    grid = expand(changed(SPEC, equalize=True), {"keep": ("1/2", "16")})
    assert [block.spec.cells.keep for block in grid.blocks] == ["1/2", "16"]
    assert grid.blocks[0].spec.cells.methods == SPEC.cells.methods


@pytest.mark.parametrize(
    ("axes", "error", "message"),
    [
        ({"rounds": (3,)}, OptionError, "is no axis of a sweep"),
        ({"batch_size": (1, 0)}, OptionError, "batch_size must be a whole number at least 1"),
        ({"layout": ("round",)}, OptionError, "layout must be 'flat' or 'anyres'"),
        ({"batch_size": tuple(range(1, 4000))}, InputError, "more than 10,000 cells"),
    ],
)
def test_what_is_no_grid_is_refused(
    axes: dict[str, tuple[object, ...]], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        expand(SPEC, axes)


def test_what_cannot_be_planned_has_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expansion, "_peaks", lambda device: None)
    spec = RunSpec.of(methods=["fastv", "pyramiddrop"], visual_tokens=64)
    grid = expand(spec, {"model": ("tiny-llava", "none-such"), "keep": ("1/2", "2")})
    plan(grid)
    known, unknown = grid.blocks
    assert [bool(cell.problem) for cell in known.cells] == [False, False, False, True]
    assert known.cells[3].problem.startswith("2 of 64 visual tokens cannot be the mean")
    assert known.cells[0].peak_bytes is not None
    assert known.cells[0].floor_seconds is None, "the device was not calibrated"
    assert unknown.problem.startswith("unknown model 'none-such'")


def test_a_dry_run_lists_all_cells_and_measures_nothing(tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(
        '[model]\nname = "tiny-llava"\n[workload]\nvisual_tokens = 64\n'
        '[cells]\nmethods = ["fastv"]\n[axes]\nbatch_size = [1, 2]\nkeep = ["1/2", 999]\n'
    )
    given = ("sweep", "--config", "grid.toml", "--dry-run", "--format", "markdown")
    done = in_this_process(*given, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.count("| fastv:keep=1/2 |") == 2
    assert done.stdout.count("give a count from 1 to 64") == 2
    assert "4 cells in 2 comparisons" in done.stdout
    assert not (tmp_path / "runs").exists()
    typed = in_this_process(*given, "--batch-size", "4", cwd=tmp_path)
    assert "2 cells in 1 comparison" in typed.stdout, "what is typed goes first"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--model", "tiny"], "name a METHOD"),
        (["fastv"], "name a model"),
        (["fastv", "--model", "tiny", "--batch-size", "1,x"], "--batch-size 'x' is not a whole"),
        (["fastv", "--model", "tiny", "--format", "long"], "unknown --format 'long' for sweep"),
    ],
)
def test_bad_input_is_one_line(given: list[str], message: str, tmp_path: Path) -> None:
    done = in_this_process("sweep", *given, "--dry-run", cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
