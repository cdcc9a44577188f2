"""The arms of a timing gate: a commit, a Python environment, a plug-in or a working tree."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ...methods.core.errors import InputError
from ...reports.gate.verdicts import NoVerdictError


@dataclass(frozen=True)
class Arm:
    """What one side runs. told: how people call it. python: its interpreter. root: the checkout
    that is imported as tpprof, if it is one. paths: searched first for modules. plugins: files and
    modules that register methods."""

    name: str
    told: str
    python: str = sys.executable
    root: str | None = None
    paths: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()


@contextmanager
def arm(name: str, text: str, plugins: list[str]) -> Iterator[Arm]:
    """The arm `text` names. A commit is checked out beside the working tree for as long.

    plugins: those of both arms; of a file inside the repository, each commit has its own version.
    Raises InputError where `text` is nothing of that kind.
    """
    path, given = Path(text), tuple(plugins)
    if text.endswith(".py"):
        if not path.is_file():
            raise InputError(f"{name} {text!r}: no such plug-in file")
        yield Arm(name, f"plug-in {text}", plugins=(*given, str(path.resolve())))
    elif python := _interpreter(path):
        yield Arm(name, f"environment {text}", python=python, plugins=given)
    elif path.is_dir() and (top := _top(path)):
        yield _tree(Arm(name, f"working tree {text}"), top, given, top)
    else:
        top, commit = _commit(name, text)
        with _checked_out(top, commit) as folder:
            told = f"commit {commit[:12]}" + ("" if commit.startswith(text) else f" ({text})")
            yield _tree(Arm(name, told), folder, given, top)


def _interpreter(path: Path) -> str:
    """The Python of an environment, or the executable itself; "" where there is none."""
    for inside in ("bin/python", "Scripts/python.exe"):
        if (path / inside).is_file():
            return str((path / inside).absolute())
    looks_like_one = path.name.startswith(("python", "pypy")) and path.is_file()
    return str(path.absolute()) if looks_like_one and os.access(path, os.X_OK) else ""


def _tree(arm: Arm, folder: Path, plugins: tuple[str, ...], top: Path) -> Arm:
    """The arm with the modules and plug-ins of a source tree. top: where they were named."""
    found = tuple(_plugin(name, folder, top, arm) for name in plugins)
    if _is_tpprof(folder):
        return replace(arm, root=str(folder), plugins=found)
    sources = [path for path in (folder, folder / "src") if path.is_dir()]
    return replace(arm, paths=tuple(map(str, sources)), plugins=found)


def _plugin(name: str, folder: Path, top: Path, arm: Arm) -> str:
    if not name.endswith(".py"):
        return name
    inside = os.path.relpath(Path(name).resolve(), top)
    if inside.startswith(os.pardir):
        return str(Path(name).resolve())
    if not (folder / inside).is_file():
        raise NoVerdictError(f"{arm.name}, {arm.told}, has no plug-in {inside}: a missing arm")
    return str(folder / inside)


def _is_tpprof(folder: Path) -> bool:
    """Whether a source tree is that of tpprof itself, whose root is the package."""
    project = folder / "pyproject.toml"
    if not (project.is_file() and (folder / "profiler").is_dir()):
        return False
    return 'name = "tpprof"' in project.read_text(encoding="utf-8", errors="replace").splitlines()


def _commit(name: str, text: str) -> tuple[Path, str]:
    """The repository around, and the full commit that `text` names in it."""
    top = _top(Path.cwd())
    if top is None:
        raise InputError(
            f"{name} {text!r} is no .py file, no environment, and there is no git repository here "
            "to look for a commit"
        )
    done = _git(top, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{text}^{{commit}}")
    if done.returncode:
        raise InputError(
            f"{name} {text!r} is no commit of {top} (in CI, fetch the history: fetch-depth: 0), "
            "no .py file and no Python environment"
        )
    return top, done.stdout.strip()


@contextmanager
def _checked_out(top: Path, commit: str) -> Iterator[Path]:
    """The commit in a folder of its own, a git worktree, which is removed again."""
    with tempfile.TemporaryDirectory(prefix="tpprof-gate-") as parent:
        folder = Path(parent).resolve() / commit[:12]
        done = _git(top, "worktree", "add", "--detach", "--force", str(folder), commit)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["git failed"])[-1]
            raise InputError(f"commit {commit[:12]} cannot be checked out ({last})")
        try:
            yield folder
        finally:
            _git(top, "worktree", "remove", "--force", str(folder))


def _top(folder: Path) -> Path | None:
    """The top of the git working tree around `folder`."""
    done = _git(folder, "rev-parse", "--show-toplevel")
    return Path(done.stdout.strip()) if done.returncode == 0 else None


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, errors="replace"
        )
    except OSError as error:
        raise InputError(f"git does not run ({error.strerror or error})") from error
