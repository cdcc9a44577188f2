"""Files that whatever ends a run leaves whole: line by line, and claimed by the run that writes."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ..outputs import OutputError, add_whole, beside
from ..sanitize import quoted
from .base import RecordError

SUFFIX = ".jsonl"


class Journal:
    """Appends structs to a file, one JSON line each, and each one at once in the file: whatever
    ends the run, they are there. A line that a full disk cut short goes again."""

    def __init__(self, path: Path, handle: int | None = None) -> None:
        """Go on with the journal at `path`; handle: of the open file. Raises OutputError."""
        self.path = path
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_APPEND) if handle is None else handle
        except OSError as error:
            raise _unwritable(path, error) from error
        self.mend()

    @classmethod
    def begin(cls, path: Path, *lines: msgspec.Struct) -> Journal:
        """A new journal that begins with `lines`, in the place of an older one; claimed until
        this process ends, however it ends. Raises OutputError where it cannot be written, or
        where another run writes it, and RecordError for what could not be read again."""
        content = b"".join(map(encoded, lines))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _alone_in(path.parent):
                if path.exists() and in_use(path):
                    raise OutputError(
                        f"{quoted(str(path), 300)} belongs to a run that still goes on; give "
                        "another --out"
                    )
                # Claimed before it takes its place, so that nobody comes in between.
                with beside(path) as part:
                    handle = os.open(part, os.O_RDWR | os.O_APPEND)
                    _lock(handle)
                    add_whole(handle, content)
        except OSError as error:
            raise _unwritable(path, error) from error
        return cls(path, handle)

    def mend(self) -> None:
        """Drop half a last line, that of a process which was killed as it wrote."""
        content = self.path.read_bytes()
        if not content.endswith(b"\n"):
            os.truncate(self.path, content.rfind(b"\n") + 1)

    def append(self, line: msgspec.Struct) -> None:
        """Raises OutputError where it cannot be written, and RecordError for what could not be read
        again; what was written before stays."""
        content = encoded(line)
        try:
            add_whole(self._handle, content)
        except OSError as error:
            raise OutputError(
                f"{quoted(str(self.path), 300)}: {error.strerror or error}; what was measured "
                "until then is in it"
            ) from error

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def read_lines(path: Path) -> list[bytes]:
    """The whole lines of a journal: what follows the last line break was being written."""
    return path.read_bytes().split(b"\n")[:-1]


def is_empty(path: Path) -> bool:
    """Whether no journal was begun at `path`: nothing is there, or nothing in it."""
    return not path.exists() or (path.is_file() and not path.stat().st_size)


def in_use(path: Path) -> bool:
    """Whether a run that still goes on writes the journal at `path`."""
    handle = os.open(path, os.O_RDWR)
    try:
        return not _lock(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """While nobody else begins a journal in this folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        _lock(handle, wait=True)
        yield
    finally:
        os.close(handle)


def encoded(line: msgspec.Struct) -> bytes:
    """A line of a journal. Raises RecordError for one that could not be read again: NaN where a
    number must be, or what is of another type than its field."""
    try:
        content = msgspec.json.encode(line)
        msgspec.json.decode(content, type=type(line))
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise RecordError(f"what no file can hold: {error}") from error
    return content + b"\n"


def _lock(handle: int, *, wait: bool = False) -> bool:
    """Claim an open file until it is closed or this process ends; False if another one has it."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system: nothing is known of other runs
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)  # of a place without locks
    return True


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{quoted(str(path), 300)} cannot be written ({error.strerror or error})")
