"""A record says where a callable lies without the folders of its user."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tpprof.profiler.gate import probe
from tpprof.profiler.subjects.callables import CallableRequest, callable_cells
from tpprof.profiler.subjects.places import portable


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder, with the folder in it that the user is in."""
    found = tmp_path / "home" / "somebody"
    (found / "work").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(found))
    monkeypatch.chdir(found / "work")
    return found


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("work/fork.py", "fork.py"),
        ("other/fork.py", "../other/fork.py"),
        ("../shared/fork.py", "../../shared/fork.py"),
        ("/nowhere/fork.py", "/nowhere/fork.py"),
    ],
)
def test_a_file_is_told_from_where_the_user_is(path: str, told: str, home: Path) -> None:
    whole = os.path.normpath(home / path)
    assert portable(whole) == told
    assert probe._whole(told) == whole, "the gate finds it again"


def test_from_elsewhere_it_is_told_from_the_home_folder(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert portable(str(home / "fork.py")) == "~/fork.py"
    assert probe._whole("~/fork.py") == str(home / "fork.py")
    assert portable("") == ""


def test_a_record_holds_no_home_folder(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a callable's file, of what was named, and of its Python."""
    monkeypatch.chdir(tmp_path)
    (home / "fork.py").write_text("")
    cells = callable_cells(
        [f"mine={home / 'fork.py'}:f"],
        [str(python(home / one / "env")) for one in ("a", "b")],
        CallableRequest(1),
        beside_engine=True,
    )
    assert [cell.saved.method for cell in cells] == ["mine@~/a/env", "mine@~/b/env"]
    assert {cell.info.reference for cell in cells} == {"~/fork.py:f"}
    (unnamed,) = callable_cells(
        [f"{home / 'fork.py'}:f"], [], CallableRequest(1), beside_engine=True
    )
    assert unnamed.saved.method == "~/fork.py:f"
    said = {"file": str(home / "fork.py"), "executable": str(home / "a/env/bin/python3.11")}
    cells[0].describe({**said, "sha256": "", "python": "3.11"})
    assert (cells[0].info.file, cells[0].info.executable) == ("~/fork.py", "python3.11")


def python(environment: Path) -> Path:
    (environment / "bin").mkdir(parents=True)
    found = environment / "bin" / "python"
    found.write_text("")
    found.chmod(0o755)
    return environment
