"""git, asked so that a repository's own configuration runs nothing.

A config in `.git` can name commands: a monitor of files, filters, hooks, a pager, transports. What
only names a commit or a place is asked with these off. What reads files is asked through a git
folder of our own, which has no such config and borrows the objects of the repository alone.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .subprocesses import temporary_folder

Answer = subprocess.CompletedProcess[str]
SECONDS = 60
_OFF = (
    "core.fsmonitor=false",
    f"core.hooksPath={os.devnull}",
    "core.sshCommand=false",
    "core.gitProxy=false",
    "core.alternateRefsCommand=false",
    "credential.helper=",
    "protocol.allow=never",
)
_QUIET = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ATTR_NOSYSTEM": "1",
    "LC_ALL": "C",
}
_NO_CONFIG = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_CONFIG_GLOBAL": os.devnull,
}
_HARMLESS = r"^(core\.(filemode|autocrlf|eol|symlinks|ignorecase)|extensions\.objectformat)$"
"""Settings that say how files of the working tree are compared, or how objects are named."""


def ask(folder: Path, *arguments: str, seconds: float = SECONDS) -> Answer:
    """What git says of the repository around `folder`: for questions that read no file of the
    working tree (rev-parse, config). Raises OSError or subprocess.TimeoutExpired."""
    off = [part for setting in _OFF for part in ("-c", setting)]
    return _run(["-C", str(folder), *off, *arguments], _QUIET, seconds)


def commit_named(folder: Path, name: str, seconds: float = SECONDS) -> str:
    """The full hash of the commit that `name` names in the repository around; "" if none."""
    wanted = f"{name}^{{commit}}"
    done = ask(
        folder, "rev-parse", "--verify", "--quiet", "--end-of-options", wanted, seconds=seconds
    )
    return done.stdout.strip() if done.returncode == 0 else ""


@contextmanager
def unconfigured(top: Path, seconds: float = SECONDS) -> Iterator[Callable[..., Answer]]:
    """git over the working tree at `top`, its index and its objects, with no configuration but what
    says how files are compared: no filter, hook or monitor runs. The index is not written; another
    one is named with `index=`."""
    objects, index = (_place(top, name, seconds) for name in ("objects", "index"))
    with temporary_folder() as folder:
        own = folder / "git"
        (own / "refs").mkdir(parents=True)
        (own / "HEAD").write_text(commit_named(top, "HEAD", seconds) or "ref: refs/heads/none")
        (own / "config").write_text(_settings(top, seconds))
        around = {
            **_QUIET,
            **_NO_CONFIG,
            "GIT_DIR": str(own),
            "GIT_WORK_TREE": str(top),
            "GIT_OBJECT_DIRECTORY": objects,
        }

        def run(*arguments: str, index: str = index) -> Answer:
            command = ["-C", str(top), "--no-optional-locks", *arguments]
            return _run(command, {**around, "GIT_INDEX_FILE": index}, seconds)

        yield run


def _place(top: Path, name: str, seconds: float) -> str:
    return str(top / ask(top, "rev-parse", "--git-path", name, seconds=seconds).stdout.strip())


def _settings(top: Path, seconds: float) -> str:
    """A config of the harmless settings, as far as they have plain values."""
    lines = ask(top, "config", "--get-regexp", _HARMLESS, seconds=seconds).stdout.splitlines()
    found = dict(line.split(" ", 1) for line in lines if re.fullmatch(r"\S+ [a-z0-9]+", line))
    named = {**found, "core.bare": "false"}
    named["core.repositoryformatversion"] = str(int("extensions.objectformat" in found))
    return "".join(
        f"[{section}]\n\t{key} = {value}\n"
        for (section, _, key), value in ((name.partition("."), v) for name, v in named.items())
    )


def _run(arguments: list[str], settings: dict[str, str], seconds: float) -> Answer:
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        ["git", "--no-pager", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env={**own, **settings},
        timeout=seconds,
    )
