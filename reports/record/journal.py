"""Files that whatever ends a run leaves whole: written in one step, or line by line."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import IO

import msgspec

SUFFIX = ".jsonl"


class Journal:
    """Appends structs to a file, one JSON line each, and each one flushed: whatever ends the run,
    they are there."""

    def __init__(self, path: Path) -> None:
        """Go on with the journal at `path`. Raises OSError where it cannot be written."""
        self.path = path
        self._file = path.open("ab")
        self.mend()

    @classmethod
    def begin(cls, path: Path, first: msgspec.Struct) -> Journal:
        """A new journal whose first line is `first`, in the place of an older one; claimed until
        this process ends. Raises OSError where it cannot be written."""
        write_whole(path, _line(first))
        journal = cls(path)
        _lock(journal._file)
        return journal

    def mend(self) -> None:
        """Drop half a last line, that of a process which was killed as it wrote."""
        content = self.path.read_bytes()
        if not content.endswith(b"\n"):
            os.truncate(self.path, content.rfind(b"\n") + 1)

    def append(self, line: msgspec.Struct) -> None:
        self._file.write(_line(line))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_lines(path: Path) -> list[bytes]:
    """The whole lines of a journal: what follows the last line break was being written."""
    return path.read_bytes().split(b"\n")[:-1]


def in_use(path: Path) -> bool:
    """Whether a run that still goes on writes the journal at `path`."""
    with path.open("ab") as file:
        return not _lock(file)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file in one step: whoever reads it finds the old one or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _line(line: msgspec.Struct) -> bytes:
    return msgspec.json.encode(line) + b"\n"


def _lock(file: IO[bytes]) -> bool:
    """Claim an open file until this process ends; False if another one has it."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system: nothing is known of other runs
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
