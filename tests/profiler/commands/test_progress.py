"""What is said of how far things are, on a terminal and in a log."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from command import in_this_process

from tpprof.profiler.commands import gate, progress
from tpprof.profiler.gate import exact
from tpprof.reports.gate.verdicts import Gate, nothing


def test_a_log_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = iter([0.0, 1.0, 29.0, 31.0, 31.0, 60.0, 62.0, 62.0])
    tell = progress._lines(lambda: next(seconds))
    for done in range(5):
        tell("head, \x1b[2Jprocess", done, 16)
    assert capsys.readouterr().err.splitlines() == [
        "head, \\x1b[2Jprocess (2 of 16), 31 s so far",
        "head, \\x1b[2Jprocess (4 of 16), 62 s so far",
    ]


def test_a_long_gate_tells_its_progress_where_there_is_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setattr(gate, "require_ended", lambda *given, **named: None)
    monkeypatch.setattr(gate, "finish", lambda *given, **named: None)

    def run(options: object, tell: object) -> Gate:
        assert callable(tell)
        tell("base, process 1", 0, 16)
        return nothing("timing", "", "")

    monkeypatch.setattr("tpprof.profiler.gate.timing.run_ab", run)
    done = in_this_process("gate", "ab", "HEAD~1", ".", "fastv", cwd=tmp_path)
    assert "base, process 1 (0 of 16), 0 s so far" in done.stderr


def test_a_long_count_tells_that_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.001)
    told, say = threading.Event(), progress.say

    def heard(line: str) -> None:
        say(line)
        told.set()

    def count(*given: object, **named: object) -> Gate:
        assert told.wait(60)
        return nothing("exact", "", "")

    monkeypatch.setattr(progress, "say", heard)
    monkeypatch.setattr(exact, "update_baseline", count)
    done = in_this_process("gate", "check", "b.json", "--update", "fastv", cwd=tmp_path)
    assert "counting fastv, 0 s so far" in done.stderr
