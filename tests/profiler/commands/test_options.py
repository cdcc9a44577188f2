"""Options of the command come from the specification of a run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command import RUN

from tpprof.profiler import cli
from tpprof.profiler.commands.options import Typed, parse
from tpprof.reports.record.spec import OptionError, RunSpec, Workload, options_of, part_of
from tpprof.reports.record.spec_files import load

OPTIONS = options_of(RunSpec)


def run(*arguments: str) -> Any:
    """The command in this process: its exit code."""
    sys.argv = ["tpprof", *arguments]
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code or 0


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("image_size", "336x672", ((336, 672),)),
        ("image_size", "336x672, 84x84", ((336, 672), (84, 84))),
        ("image", ["a.png", "b.png"], ("a.png", "b.png")),
        ("text_tokens", "3, 4", (3, 4)),
        ("target_ci", "2%", 0.02),
        ("target_ci", "0.02", 0.02),
        ("attention", "rows, maps", ("rows", "maps")),
        ("max_seconds", "1e2", 100.0),
        ("visual_tokens", "64", 64),
        ("keep", "1/9", "1/9"),
        ("plugin", ["a.py", "b"], ("a.py", "b")),
    ],
)
def test_texts_become_values(option: str, text: Any, value: Any) -> None:
    assert parse(OPTIONS[option], text) == value


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("image_size", "²x²"),
        ("image_size", "336"),
        ("image_size", "1x2x3"),
        ("image_size", ""),
        ("text_tokens", ""),
        ("new_tokens", "٣"),
        ("new_tokens", "9" * 5000),
        ("new_tokens", "1_000"),
        ("new_tokens", ""),
        ("max_seconds", "nan"),
        ("max_seconds", "inf"),
        ("max_seconds", "1.2.3"),
        ("target_ci", "5"),
        ("target_ci", "%"),
    ],
)
def test_texts_that_stand_for_nothing_are_refused_in_short(option: str, text: str) -> None:
    with pytest.raises(OptionError) as refused:
        parse(OPTIONS[option], text)
    assert len(refused.value.as_flag) < 160


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["compare"], "name a METHOD"),
        (["compare", "fastv", "--video", "a.mp4", "--video", "b.mp4"], "--video is given twice"),
        (["compare", "fastv", "-m", "tiny", "--model", "tiny"], "is given twice"),
        (["compare", "fastv", "--keep="], "--keep is empty"),
        (["compare", "fastv", "--text-tokens", ""], "--text-tokens is empty"),
        (["compare", "fastv", "--kep", "3"], "No such option: --kep"),
        (["compare", "fastv", "--rounds"], "requires an argument"),
        (["gate", "init", "fastv", "--seed", "1", "--seed", "1"], "--seed is given twice"),
        (["flops", "fastv", "--sweep", "--for-speedup", "2x"], "exclude each other"),
        (["compare", "--config", "none.toml"], "none.toml: No such file"),
        (["nonsense"], "No such command 'nonsense'"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_a_wrong_command_line_is_one_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    output = capsys.readouterr()
    assert told in output.err
    assert output.err.count("\n") == 1
    assert output.out == ""


def test_help_lists_every_option_under_a_heading(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compare", "--help") == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    for heading in ("What runs", "The request", "How long", "What is shown and kept"):
        assert heading in printed
    for option in OPTIONS:
        assert option == "methods" or f"--{option.replace('_', '-')}" in printed


def test_a_file_is_written_and_what_is_typed_goes_before_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("init", "fastv", "--keep", "1/8", "--prompt", "Why?") == 0
    assert load(Path("run.toml")) == RunSpec.of(methods=["fastv"], keep="1/8", prompt="Why?")
    assert run("init", "fastv") == 2, "it is there already"
    assert "is there already" in capsys.readouterr().err
    given = ["--model", "tiny-llava", "--device", "cpu", "--visual-tokens", "32", "--rounds", "1"]
    assert run("compare", "--config", "run.toml", *given, "--text-tokens", "3,4") == 0
    assert "fastv:keep=1/8" in capsys.readouterr().out


def test_how_long_is_typed_takes_the_place_of_a_fixed_number_of_rounds() -> None:
    fixed = RunSpec.of(rounds=6)
    for typed in ({"max_rounds": 9}, {"max_seconds": 3.0}, {"min_rounds": 7}, {"target_ci": 0.5}):
        assert Typed(typed).over(fixed).stopping.rounds is None
    assert Typed({"max_rounds": 9, "rounds": 4}).over(fixed).stopping.rounds == 4


def test_a_size_of_a_picture_goes_where_there_is_none() -> None:
    sized = RunSpec.of(image_size=(336, 336))
    assert Typed({"visual_tokens": 9}).over(sized).workload.image_size == ()


@pytest.mark.parametrize(
    ("words", "completed"), [("tpprof com", "compare"), ("tpprof compare --eq", "--equalize")]
)
def test_a_shell_completes_commands_and_options(words: str, completed: str) -> None:
    asked = {"_TPPROF_COMPLETE": "complete_bash", "COMP_WORDS": words}
    last = {"COMP_CWORD": str(len(words.split()) - 1)}
    done = subprocess.run(
        RUN,
        env={**os.environ, **asked, **last},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [completed], done.stderr


@pytest.mark.parametrize("given", ["336x672, 84x84", [[336, 672], [84, 84]]])
def test_sizes_are_taken_in_python_as_they_are_typed(given: Any) -> None:
    assert part_of(Workload, image_size=given).image_size == ((336, 672), (84, 84))


def test_sizes_that_are_none_say_what_is_wanted() -> None:
    with pytest.raises(OptionError, match="'280' is not HEIGHTxWIDTH, as 672x672"):
        part_of(Workload, image_size="280")
