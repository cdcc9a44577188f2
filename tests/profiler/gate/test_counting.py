"""How the process that counts is started."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from tpprof.profiler.gate import counting
from tpprof.reports.record.spec import Subject


@pytest.mark.parametrize("theirs", ["", "active"])
def test_its_threads_leave_a_busy_machine_to_others_while_they_wait(
    theirs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, str] = {}

    def ask(command: object, task: object, environment: Mapping[str, str]) -> object:
        found.update(environment)
        return 0, "", msgspec.json.encode(counting.Counted())

    monkeypatch.setattr(counting, "ask", ask)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if theirs:
        monkeypatch.setenv("OMP_WAIT_POLICY", theirs)
    counting.require_methods(Subject.of(methods=["fastv"]))
    assert found["OMP_WAIT_POLICY"] == (theirs or "passive")
    assert Path(found["PATH"].split(":")[0]).is_absolute(), "the rest of it is the user's"
