"""The command as a user runs it."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import RUN, SMALL, tpprof
from record_builders import cell, record

from tpprof.methods import knob
from tpprof.profiler import cli
from tpprof.profiler.commands import lists
from tpprof.reports.record.files import load, save


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The record of one short comparison."""
    folder = tmp_path_factory.mktemp("run")
    done = tpprof("compare", "fastv", "random", *SMALL, "--rounds", "2", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "fastv" in done.stdout
    assert "Traceback" not in done.stderr
    (path,) = (folder / "runs").iterdir()
    assert str(path.relative_to(folder)) in done.stderr
    return path


@pytest.mark.parametrize("module", ["tpprof", "tpprof.profiler.cli"])
def test_the_modules_run_the_command(module: str, tmp_path: Path) -> None:
    ended = [
        subprocess.run(
            [sys.executable, "-m", module, *arguments], capture_output=True, text=True, cwd=tmp_path
        )
        for arguments in (["methods"], ["compare", "fastw"])
    ]
    assert [each.returncode for each in ended] == [0, 2], ended[0].stderr
    assert "fastv" in ended[0].stdout
    assert ended[1].stderr.startswith("tpprof: ")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_output_that_lacks_a_character_shows_another(encoding: str, tmp_path: Path) -> None:
    run = record(cell("vanilla", "rows", 2.0, 10), cell("fastv", "rows", 1.0, 4, note="日本"))
    save(run, tmp_path / "run.json")
    done = subprocess.run(
        [*RUN, "report", "run.json"],
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.decode(encoding)
    assert " ---" in said
    assert "+-0.0 %" in said or "±0.0 %" in said
    assert r"\u65e5\u672c" in said


def test_compare_saves_what_report_prints_again(recorded: Path) -> None:
    done = tpprof("report", str(recorded), cwd=recorded.parent)
    assert done.returncode == 0
    for word in ("vanilla", "maps", "rows", "promised", "claimed", "KV MB"):
        assert word in done.stdout
    assert len(load(recorded).cells) == 4


@pytest.mark.parametrize("form", ["json", "csv", "markdown"])
def test_report_formats(recorded: Path, form: str) -> None:
    done = tpprof("report", str(recorded), "--format", form, cwd=recorded.parent)
    assert done.returncode == 0
    if form == "json":
        names = [row["method"] for row in json.loads(done.stdout)]
    elif form == "csv":
        names = [row["method"] for row in csv.DictReader(io.StringIO(done.stdout))]
    else:
        told = done.stdout.splitlines()
        assert told[0].startswith("> "), "what to know first stands above the table"
        lines = [line for line in told if line.startswith("|")]
        names = [line.split("|")[1].strip() for line in lines[2:]]
    assert names == ["vanilla", "fastv", "fastv", "random"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["compare", "fastw"], "did you mean 'fastv'"),
        (["compare", "fastv:kep=3"], "did you mean 'keep'"),
        (["compare", "fastv:keep=x"], "keep=x is not a whole number or a share"),
        (["compare", "fastv:keep"], "is not knob=value"),
        (["compare", "sparsevlm:version=3"], "'1.0' or '1.5'"),
        (["compare", "fastv", "--model", "tinny"], "did you mean 'tiny'"),
        (["compare", "fastv", *SMALL, "--keep", "65"], "this request has 64"),
        (["compare", "fastv:layer=99", *SMALL], "layer=99 does not exist"),
        (["compare", "fastv", "--attention", "all"], "known: rows, maps, published"),
        (["compare", "fastv", "--backend", "fast"], "known: sdpa"),
        (["compare", "fastv", "--layout", "round"], "must be 'flat' or 'anyres'"),
        (["compare", "fastv", "--image", "none.jpg"], "no such file"),
        (["compare", "fastv", "--image-size", "big"], "HEIGHTxWIDTH"),
        (["compare", "fastv", "--text-tokens", "1"], "BEFORE,AFTER"),
        (["compare", "fastv", "--batch-size", "0"], "at least 1"),
        (["compare", "fastv", "--rounds", "0"], "at least 1"),
        (["compare", "fastv", "--max-rounds", "5"], "below --min-rounds 6"),
        (["compare", "fastv", "--max-seconds", "nan"], "is not a number"),
        (["compare", "fastv", "--target-ci", "tight"], "is not a share"),
        (["compare", "fastv", "--target-ci", "0%"], "must be a number above 0"),
        (["compare", "fastv", "--runtime", "fast"], "known: eager, graph, compile"),
        (["compare", "fastv", "--samples", "5"], "needs --isolate"),
        (["compare", "fastv", "fastv", *SMALL], "listed twice"),
        (["compare", "fastv", "--plugin", "none.py"], "'none.py' could not be loaded"),
        (["compare", "fastw", "--isolate"], "did you mean 'fastv'"),
        (["compare", "fastv", "--workload", "mmlu"], "No such option: --workload"),
        (["compare", "fastv", "--keep", "1", "--keep", "2"], "--keep is given twice"),
        (["compare", "fastv", *SMALL, "--prompt", "hi"], "no tokenizer"),
        (["compare", "fastv", *SMALL, "--out", "/dev/null/runs"], "is not a folder"),
        (["compare", "fastv", "--device", "tpu"], "unknown device"),
        (["compare", "fastv", "--dtype", "int3"], "known: float32"),
        (["flops", "fastv", "fastv:keep=1/9"], "listed twice"),
        (["tokens", "fastv", "fastv", "--model", "tiny"], "listed twice"),
        (["flops", "fastv", "--model", "gpt"], "known: tiny"),
        (["flops", "fastv", "--keep", "29" * 9], "this request has 2880"),
        (["report", "none.json"], "No such file"),
        (["report", "."], "is a folder"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_bad_input_gets_one_line_and_exit_code_2(
    arguments: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["tpprof", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    output = capsys.readouterr()
    assert stopped.value.code == 2
    assert told in output.err
    assert output.err.strip().splitlines()[-1].startswith("tpprof: ")
    assert output.out == ""
    assert not (tmp_path / "runs").exists()


def test_an_error_of_ours_looks_like_no_verdict_of_the_gate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(**_: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(cli, "app", broken)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 70
    assert "ZeroDivisionError: ours" in capsys.readouterr().err


def test_flops_plans_without_running(tmp_path: Path) -> None:
    done = tpprof(
        "flops",
        "fastv",
        "mustdrop:global_threshold=0.001",
        "--model",
        "qwen2-vl-72b",
        "--keep",
        "0.25",
        "--format",
        "json",
        cwd=tmp_path,
    )
    vanilla, fastv, mustdrop = json.loads(done.stdout)
    assert vanilla["flops_share"] == 1.0
    assert fastv["visual_last"] == 144
    assert mustdrop["flops"] is None
    assert "depends on the data" in mustdrop["note"]


def test_lists_name_all(tmp_path: Path) -> None:
    listed = tpprof("methods", cwd=tmp_path).stdout
    assert "sparsevlm" in listed
    assert "https://arxiv.org/abs/2410.04417" in listed
    assert "llava-next-7b" in tpprof("models", cwd=tmp_path).stdout
    assert tpprof("--version", cwd=tmp_path).stdout.strip()[0].isdigit()


def test_a_listed_method_says_what_its_knobs_may_be(tmp_path: Path) -> None:
    listed = tpprof("methods", "flashvid", cwd=tmp_path).stdout
    least = "least scenes of a video; auto: 4 with M-RoPE, else 8"
    assert f"scenes=auto  {least} (from 1)\n" in listed
    assert "threshold=0.8  cosine above which a token hangs on another (-1 to 1)\n" in listed
    assert "layer=auto  decoder layer that is cut before; auto: the published 20\n" in listed


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ({}, ""),
        ({"least": 0}, " (from 0)"),
        ({"most": 0.5}, " (up to 0.5)"),
        ({"least": -1, "most": 1}, " (-1 to 1)"),
    ],
)
def test_bounds_of_a_knob(bounds: dict[str, float], said: str) -> None:
    assert lists.bounds(knob(1, "tokens", **bounds)) == said


def test_what_a_plug_in_says_of_itself_is_no_terminal_code(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(
        "from dataclasses import dataclass\n"
        "from tpprof.methods import register\n"
        "from tpprof.methods.vanilla import Vanilla\n"
        "@register('loud')\n"
        "@dataclass(frozen=True)\n"
        "class Loud(Vanilla):\n"
        "    '''In \x1b[31m red.\n\n    Paper: \x1b[2J\n\n"
        "    Departures:\n    - from \x1b[5m.\n    '''\n"
    )
    listed = tpprof("methods", "loud", "--plugin", "loud.py", cwd=tmp_path).stdout
    assert "\x1b" not in listed
    assert listed.count("\\x1b[") == 3


@pytest.mark.parametrize(
    ("help_", "closed"),
    [("--help", "> /dev/full"), ("--help", ">&-"), ("--help", "| true"), ("gate", "| true")],
)
def test_help_that_nobody_can_read_is_no_result(help_: str, closed: str, tmp_path: Path) -> None:
    command = f"{RUN[0]} -c '{RUN[-1]}' {help_} {closed}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == cli.UNREAD, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
