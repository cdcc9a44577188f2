"""git is asked, and nothing that a repository configures runs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tpprof.profiler import git
from tpprof.profiler.gate.arms import arm
from tpprof.profiler.machine.environment import describe_environment


def run(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose configuration, and whose caller's environment, name a command wherever git
    takes one; `ran` beside it shows that one of them ran."""
    folder, ran = tmp_path / "repository", tmp_path / "ran"
    (folder / "src").mkdir(parents=True)
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho $0 $@ >> {ran}\ncat\n")
    program.chmod(0o755)
    run(folder, "init", "-b", "main")
    (folder / "src" / "a.py").write_text("a = 1\n")
    (folder / ".gitattributes").write_text("*.py filter=evil diff=evil\n")
    run(folder, "add", ".")
    run(folder, "commit", "-m", "first")
    for name in (
        *("core.fsmonitor", "core.pager", "pager.status", "core.sshCommand", "core.editor"),
        *("filter.evil.clean", "filter.evil.smudge", "filter.evil.process", "diff.external"),
        *("diff.evil.textconv", "diff.evil.command", "core.askPass", "credential.helper"),
        *("core.alternateRefsCommand", "core.gitProxy", "gpg.program", "remote.origin.uploadpack"),
    ):
        run(folder, "config", name, str(program))
    run(folder, "config", "alias.status", f"!{program}")
    run(folder, "config", "alias.rev-parse", f"!{program}")
    run(folder, "config", "filter.evil.required", "true")
    run(folder, "config", "remote.origin.url", f"ext::{program}")
    run(folder, "config", "remote.origin.promisor", "true")
    run(folder, "config", "protocol.ext.allow", "always")
    for hook in ("post-index-change", "post-checkout", "reference-transaction", "pre-commit"):
        path = folder / ".git" / "hooks" / hook
        path.parent.mkdir(exist_ok=True)
        path.write_text(program.read_text())
        path.chmod(0o755)
    (folder / "src" / "a.py").write_text("a = 1\n")  # as before, at another time: looked into
    os.utime(folder / "src" / "a.py", (1, 1))
    for name in ("GIT_SSH_COMMAND", "GIT_EXTERNAL_DIFF", "GIT_PAGER", "GIT_ASKPASS"):
        monkeypatch.setenv(name, str(program))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.fsmonitor")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(program))
    monkeypatch.chdir(folder)
    return folder


def test_what_is_set_here_would_run(hostile: Path) -> None:
    subprocess.run(["git", "status"], cwd=hostile, capture_output=True)
    assert (hostile.parent / "ran").exists()


def test_a_record_asks_without_running_anything(hostile: Path) -> None:
    found = describe_environment(None).git.working_directory
    assert len(found.commit or "") == 40
    assert found.dirty is False
    (hostile / "src" / "a.py").write_text("a = 2\n")
    assert describe_environment(None).git.working_directory.dirty is True
    assert not (hostile.parent / "ran").exists()


@pytest.mark.parametrize("name", ["main", "."])
def test_a_gate_looks_at_a_commit_and_a_tree_without_running_anything(
    hostile: Path, name: str
) -> None:
    with arm("base", name, []) as found:
        assert found.tree is not None
        assert (Path(found.tree) / "src" / "a.py").read_text() == "a = 1\n"
        assert len(found.identity) == 40, "the hash of its content"
    assert not (hostile.parent / "ran").exists()


def test_a_lost_object_is_not_fetched(hostile: Path) -> None:
    assert git.commit_named(hostile, "0" * 39 + "1") == ""
    assert not (hostile.parent / "ran").exists()
