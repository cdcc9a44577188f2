"""Files that are written: looked at before anything runs, then written beside and moved into place.

A file that is there is replaced only if tpprof made one of that kind, which its content shows, or
where that was asked for; and never if it is read, or written as something else, by the same command
under whatever name.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .sanitize import quoted

Kind = Literal[
    "record", "journal", "page", "trace", "figure", "baseline", "gate's JSON", "JUnit XML", "text"
]
"""What a file is. Of the kind `text` no content shows that tpprof wrote it: people change it."""
_HEAD = rb'\s*\{\s*"schema":\s*\d+,\s*'
_MADE: dict[Kind, bytes] = {
    "record": _HEAD + rb'"tpprof":\s*"[^"]*",\s*"created":',
    "journal": rb'\{"type":"(begun|sweep)",',
    "page": rb'<!doctype html>.*<meta name="generator" content="tpprof">',
    "trace": rb'.*"traceEvents":.*"name": "tpprof',
    "figure": rb"(\x89PNG|%PDF|.{0,200}<svg).*tpprof",
    "baseline": _HEAD + rb'"tpprof":\s*"[^"]*",\s*"subject":',
    "gate's JSON": _HEAD + rb'"kind":\s*"[^"]*",\s*"subject":',
    "JUnit XML": rb'<\?xml [^>]*>\s*<testsuites name="tpprof gate"',
}
"""How a file begins that tpprof made, by its kind."""
_LOOKED_AT = 2**26
"""Bytes of a file by which its kind is told."""


class OutputError(ValueError):
    """A file that cannot be written, or must not be: one line."""


@dataclass(frozen=True)
class Output:
    """A file that a command will write. name: what it is called, as `--html`. appended: whether
    what is there stays."""

    name: str
    path: Path
    kind: Kind
    appended: bool = False


def require_outputs(
    outputs: Iterable[Output], inputs: Iterable[Path] = (), *, overwrite: bool = False
) -> None:
    """See, before anything runs, that these files can be written, and that none of them is one of
    `inputs`, or would be one that is not there yet, lies there already in a folder of them, is
    another output, or the file that the terminal's lines go into: by inode, so under whatever name.
    Nothing is made yet. Raises OutputError."""
    read = list(inputs)
    files = {_identity(path) for path in read}
    folders = [Path(os.path.realpath(path)) for path in read if path.is_dir()]
    lines = _files_of_lines()
    taken: dict[object, Output] = {}
    for output in outputs:
        there = _require_file(output)
        identity = _identity(output.path)
        if identity in files:
            raise OutputError(f"{_shown(output)} is read by this command: give another file")
        if identity in lines:
            raise OutputError(
                f"{_shown(output)} is the file that standard {lines[identity]} goes into: give "
                "another file"
            )
        real = Path(os.path.realpath(output.path))
        if there and any(folder in real.parents for folder in folders):
            raise OutputError(f"{_shown(output)} belongs to what is read: give another file")
        if identity in taken:
            raise OutputError(
                f"{_shown(output)} and {taken[identity].name} are one file: give another one"
            )
        taken[identity] = output
        if not overwrite and not output.appended:
            require_own(output.path, output.kind, output.name)


def require_folder(name: str, folder: Path) -> None:
    """See that files can be written into a folder that may not be there yet; raises OutputError."""
    status = _status(name, folder)
    if status is not None and not stat.S_ISDIR(status.st_mode):
        raise OutputError(f"{name} {quoted(str(folder), 300)} is a file; give a folder")
    _require_room(name, folder)


def require_own(path: Path, kind: Kind, name: str = "") -> None:
    """Raises OutputError for a file that is there and was not made by tpprof as one of its kind."""
    if _is_plain(path) and not was_made(path, kind):
        whose = f" and is no {kind} that tpprof wrote" if kind in _MADE else ""
        raise OutputError(
            f"{name} {quoted(str(path), 300)} is there already{whose}; give another one, or "
            "--overwrite".strip()
        )


def was_made(path: Path, kind: Kind) -> bool:
    """Whether the content shows that tpprof made it, as a file of this kind; of an empty one
    nothing is lost."""
    try:
        with path.open("rb") as file:
            head = file.read(_LOOKED_AT)
    except OSError as error:
        raise _failed(path, error) from error
    if head.startswith(b"\x1f\x8b"):
        head = _unpacked(head)
    return not head or (kind in _MADE and re.match(_MADE[kind], head, re.DOTALL) is not None)


def write(path: Path, content: bytes, kind: Kind, *, overwrite: bool = False) -> None:
    """Write a file in one step: whoever reads it finds the old one or the new one, whole. Raises
    OutputError, also for a file that is not ours."""
    if not overwrite:
        require_own(path, kind)
    with beside(path) as part, part.open("wb") as file:
        file.write(content)


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A new file beside `path`, which takes its place when all went well, with the mode of what was
    there, or the user's umask. What is no plain file, as /dev/stdout, is written as it is. Raises
    OutputError where the disk is full or the place cannot be written."""
    if path.exists() and not path.is_file():  # a pipe has no other name than that of its handle
        try:
            yield path
        except BrokenPipeError:  # nobody reads it any more, which is told otherwise
            raise
        except OSError as error:
            raise _failed(path, error) from error
        return
    target = Path(os.path.realpath(path))  # a symbolic link goes on to point where it did
    part = target.with_name(f".tpprof-{secrets.token_hex(6)}.part{target.suffix[:16]}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            part.chmod(stat.S_IMODE(target.stat().st_mode))
        os.replace(part, target)
    except OSError as error:
        raise _failed(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def append(path: Path, content: bytes) -> None:
    """Add to the end of a file, all of it or nothing. Raises OutputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:
            add_whole(file.fileno(), content)
    except OSError as error:
        raise _failed(path, error) from error


def add_whole(handle: int, content: bytes) -> None:
    """Write to the end of an open file; where that fails half-way, what was written goes again.
    Raises OSError."""
    before = os.fstat(handle)
    try:
        while content:
            content = content[os.write(handle, content) :]
    except OSError:
        if stat.S_ISREG(before.st_mode):
            with contextlib.suppress(OSError):
                os.ftruncate(handle, before.st_size)
        raise


def _require_file(output: Output) -> bool:
    """See that it can be a file there; whether it is one."""
    status = _status(output.name, output.path)
    if output.path.name in ("", "..") or (status is not None and stat.S_ISDIR(status.st_mode)):
        raise OutputError(f"{_shown(output)} is a folder; give a file")
    if status is None or stat.S_ISREG(status.st_mode):
        _require_room(output.name, Path(os.path.realpath(output.path)).parent)
    if status is not None and not os.access(output.path, os.W_OK):
        raise OutputError(f"{_shown(output)} cannot be written")
    return status is not None


def _require_room(name: str, folder: Path) -> None:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise OutputError(f"{name}: {quoted(str(there))} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"{name}: {quoted(str(there))} cannot be written")


def _status(name: str, path: Path) -> os.stat_result | None:
    """What is there; None for nothing. Raises OutputError for what can be no name at all."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{name} {quoted(str(path), 300)}: {reason}") from error


def _identity(path: Path) -> object:
    """The same for all names of a file, also of one that is not there yet."""
    with contextlib.suppress(OSError):
        status = path.stat()
        return status.st_dev, status.st_ino
    real = Path(os.path.realpath(path))
    with contextlib.suppress(OSError):
        status = real.parent.stat()
        return status.st_dev, status.st_ino, real.name
    return str(real)


def _files_of_lines() -> dict[object, str]:
    """The files that standard output and standard error go into, as `> log.txt` says: what is
    written there as well would be lost, or written over."""
    found: dict[object, str] = {}
    for handle, name in ((1, "output"), (2, "error")):
        with contextlib.suppress(OSError):  # of one that is closed
            status = os.fstat(handle)
            if stat.S_ISREG(status.st_mode):
                found[status.st_dev, status.st_ino] = name
    return found


def _is_plain(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        raise _failed(path, error) from error


def _unpacked(head: bytes) -> bytes:
    """The beginning of what was compressed."""
    import zlib

    try:
        return zlib.decompressobj(31).decompress(head, _LOOKED_AT)
    except zlib.error:
        return head


def _failed(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{quoted(str(path), 300)} cannot be written ({error.strerror or error})")


def _shown(output: Output) -> str:
    return f"{output.name} {quoted(str(output.path), 300)}"
