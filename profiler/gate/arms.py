"""The arms of a timing gate: a commit, a Python environment, a plug-in or a working tree."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ...methods.contract.errors import InputError
from ...reports.gate.verdicts import NoVerdictError
from ...reports.record.spec_files import with_file
from .. import git
from ..subprocesses import temporary_folder

SUBMODULE = "160000"
"""What git says of the mode of an entry that is a commit of another repository."""


@dataclass(frozen=True)
class Arm:
    """What one side runs. label: how people call it. python: its interpreter. root: the checkout
    that is imported as tpprof, if it is one. paths: searched first for modules. plugins: files and
    modules that register methods. tree: the source tree that is its own; tops: others of the same
    project, from which nothing may come. identity: what two arms that are the same have in common:
    the content of a tree that git knows, or where it lies. alone: whether PYTHONPATH, which both
    sides share, is not for it."""

    name: str
    label: str
    python: str = sys.executable
    root: str | None = None
    paths: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    tree: str | None = None
    tops: tuple[str, ...] = ()
    identity: str = ""
    alone: bool = False
    lacking: tuple[str, ...] = ()

    def apart(self, other: Arm) -> Arm:
        """The same arm, for which nothing may come from the tree of the other one either."""
        if self.tree is None or other.tree in (None, self.tree):
            return self
        return replace(self, tops=tuple(sorted({*self.tops, str(other.tree)})))


class MissingError(NoVerdictError):
    """An arm lacks what it is asked to measure."""


@contextmanager
def arm(name: str, text: str, plugins: Sequence[str]) -> Iterator[Arm]:
    """The arm `text` names. A commit is written into a folder of its own for as long.

    plugins: those of both arms; of a file inside a repository, each tree has its own version.
    Raises InputError where `text` is nothing of that kind, or two of them.
    """
    path, given = Path(text), tuple(plugins)
    if not text.strip():
        raise InputError(f"{name} is empty (an unset variable?): name a commit, a folder, ...")
    if text.endswith(".py"):
        if not path.is_file():
            raise InputError(f"{name} {text!r}: no such plug-in file")
        file = str(path.resolve())
        yield Arm(name, f"plug-in {text}", plugins=(*given, file), identity=file)
    elif python := _interpreter(path):
        if not os.access(python, os.X_OK):
            raise InputError(f"{name} {text!r}: {python} cannot be executed")
        where = str(Path(python).parent.resolve() / Path(python).name)
        label = f"environment {text}"
        yield Arm(name, label, python=python, plugins=given, alone=True, identity=where)
    elif path.is_dir():
        if _is_plain(text) and _commit_of(Path.cwd(), text):
            raise InputError(
                f"{name} {text!r} is a folder and a commit: give ./{text} for one, "
                f"refs/heads/{text} or its hash for the other"
            )
        top = _top(path)
        if top is None:
            raise InputError(
                f"{name} {text!r} is a folder, but not of a git repository, and no "
                "Python environment"
            )
        identity = _content_of(top, "HEAD") if _is_clean(top) else ""
        identity = identity or str(top.resolve())
        yield _tree(Arm(name, f"working tree {text}", identity=identity), top, given)
    else:
        top, commit = _commit(name, text)
        with _written(top, commit) as (folder, lacking):
            label = f"commit {commit[:12]}" + ("" if commit.startswith(text) else f" ({text})")
            found = Arm(name, label, identity=_content_of(top, commit), lacking=tuple(lacking))
            yield _tree(found, folder, given)


def _is_plain(text: str) -> bool:
    """Whether this may be the name of a branch, too."""
    return not (text.startswith((".", "~")) or Path(text).is_absolute())


def _interpreter(path: Path) -> str:
    """The Python of an environment, or the executable itself; "" where there is none."""
    for inside in ("bin/python", "Scripts/python.exe"):
        if (path / inside).is_file():
            return str((path / inside).absolute())
    looks_like_one = path.name.startswith(("python", "pypy")) and path.is_file()
    return str(path.absolute()) if looks_like_one and os.access(path, os.X_OK) else ""


def _tree(arm: Arm, folder: Path, plugins: tuple[str, ...]) -> Arm:
    """The arm with the modules and plug-ins of a source tree."""
    found = tuple(_plugin(name, folder, arm) for name in plugins)
    tops = {str(top) for n in plugins if _is_file(n) for top, _ in _repositories(Path(n))[:1]}
    here = _top(Path.cwd())
    if here is not None and _is_tpprof(here) == _is_tpprof(folder):
        tops.add(str(here))
    arm = replace(arm, tree=str(folder), tops=tuple(sorted(tops - {str(folder)})))
    if _is_tpprof(folder):
        return replace(arm, root=str(folder), plugins=found)
    sources = [path for path in (folder, folder / "src") if path.is_dir()]
    return replace(arm, paths=tuple(map(str, sources)), plugins=found)


def _plugin(name: str, folder: Path, arm: Arm) -> str:
    """A plug-in of a tree: of a file that lies in a repository, what lies there in this tree."""
    if not _is_file(name):
        return name
    places = [place for _, place in _repositories(Path(name))]
    if not places:
        return str(Path(name).resolve())
    own = folder / places[0]
    if not own.is_file():
        raise MissingError(
            f"{arm.name}, {arm.label}, has no plug-in {places[0]} (one that both sides "
            "share must not lie in a repository)"
        )
    return str(own)


def callables_in(arm: Arm, listed: Sequence[str]) -> list[str]:
    """Callables as an arm has them: of a file that lies in a repository, what lies there in its own
    tree. Raises MissingError where there is none."""

    def own(file: str) -> str:
        found = in_tree(Path(file), arm)
        if found is not None and not found.is_file():
            raise MissingError(f"{arm.name}, {arm.label}, has no file of the callable {file}")
        return str(found or file)

    return [with_file(text, own) for text in listed]


def _is_file(plugin: str) -> bool:
    return plugin.endswith(".py")


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
            f"to look for a commit{_complaint(Path.cwd())}"
        )
    commit = _commit_of(top, text)
    if not commit:
        raise InputError(
            f"{name} {text!r} is no commit of {top} (in CI, fetch the history: fetch-depth: 0), "
            "no .py file and no Python environment"
        )
    return top, commit


def _commit_of(folder: Path, text: str) -> str:
    """The full commit that `text` names in the repository around `folder`; "" if none."""
    try:
        return git.commit_named(folder, text)
    except OSError as error:
        raise _missing_git(error) from error


def _is_clean(top: Path) -> bool:
    """Whether nothing in the working tree differs from its commit."""
    with git.unconfigured(top) as ask:
        done = ask("status", "--porcelain")
    return done.returncode == 0 and not done.stdout


def _content_of(folder: Path, commit: str) -> str:
    """The hash of all files of a commit; "" if there is none."""
    done = _git(folder, "rev-parse", "--verify", "--quiet", f"{commit}^{{tree}}")
    return done.stdout.strip() if done.returncode == 0 else ""


@contextmanager
def _written(top: Path, commit: str) -> Iterator[tuple[Path, list[str]]]:
    """The files of a commit in a folder of their own, of which the repository knows nothing; and
    the submodules that could not be written, for they are not here."""
    with temporary_folder() as parent:
        folder = parent / commit[:12]
        folder.mkdir()
        yield folder, list(_write(top, commit, folder, parent / "index"))


def _write(top: Path, commit: str, folder: Path, index: Path) -> Iterator[str]:
    """Write the files of a commit, and those of its submodules as far as these are checked out;
    gives the folders of the others."""
    with git.unconfigured(top) as ask:
        index.unlink(missing_ok=True)
        for arguments in (
            ("read-tree", commit),
            ("checkout-index", "--all", "--quiet", f"--prefix={folder}/"),
        ):
            done = ask(*arguments, index=str(index))
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["git failed"])[-1]
                raise InputError(f"commit {commit[:12]} cannot be checked out ({last})")
        listed = ask("ls-files", "--stage", "-z", index=str(index)).stdout.split("\0")
    for entry in listed:
        mode, _, rest = entry.partition(" ")
        if mode != SUBMODULE:
            continue
        inner, path = rest.split(" ")[0], entry.partition("\t")[2]
        if (top / path / ".git").exists() and _commit_of(top / path, inner) == inner:
            (folder / path).mkdir(parents=True, exist_ok=True)
            yield from (
                f"{path}/{each}" for each in _write(top / path, inner, folder / path, index)
            )
        else:
            yield path


def in_tree(file: Path, arm: Arm) -> Path | None:
    """Where a file of the repository around it lies in the tree of an arm; None if that has none,
    or the file is of no repository. What lies in a repository inside another one, as a submodule
    does, may lie in the outer one's folder there."""
    if arm.tree is None:
        return None
    places = [Path(arm.tree) / place for _, place in _repositories(file)]
    return next((place for place in places if place.exists()), places[0] if places else None)


def _repositories(file: Path) -> list[tuple[Path, Path]]:
    """The tops of the repositories around a file, the nearest first, and its place in each by the
    name that it was given, wherever symbolic links on the way lead: a link is of the side that
    holds it."""
    given = Path(os.path.abspath(file))
    marked = [path for path in given.parents if (path / ".git").exists()]
    found = [(top, path) for path in marked if (top := _top(path)) and top.samefile(path)]
    if found:
        return [(top, given.relative_to(path)) for top, path in found]
    real = file.resolve()
    top = _top(real.parent) if real.parent.is_dir() else None
    return [] if top is None else [(top, real.relative_to(top.resolve()))]


def _top(folder: Path) -> Path | None:
    """The top of the git working tree around `folder`."""
    done = _git(folder, "rev-parse", "--show-toplevel")
    return Path(done.stdout.strip()) if done.returncode == 0 else None


def _complaint(folder: Path) -> str:
    """What git says of a folder that it does not take for a repository, but for the usual."""
    lines = _git(folder, "rev-parse", "--show-toplevel").stderr.strip().splitlines()
    label = lines[0].removeprefix("fatal: ") if lines else ""
    return "" if not label or label.startswith("not a git") else f" ({label})"


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return git.ask(folder, *arguments)
    except OSError as error:
        raise _missing_git(error) from error


def _missing_git(error: OSError) -> InputError:
    return InputError(f"git does not run ({error.strerror or error})")
