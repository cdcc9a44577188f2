"""Records as files. A run in progress is a journal, one line for each thing that happened; a run
that has ended is one JSON file, written in one step."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import IO

import msgspec

from .base import RecordError, Struct
from .kept import drawable, fitting
from .schema import SCHEMA, Cell, Process, Record, Sample

SUFFIX = ".jsonl"


class Begun(Struct, tag="begun"):
    """The first line: the record as it was when the journal was opened."""

    record: Record


class Joined(Struct, tag="process"):
    """A process has joined, or has ended: what is known of it."""

    index: int
    process: Process


class Known(Struct, tag="cell"):
    """What is known of a cell, but for its samples."""

    index: int
    cell: Cell

    @classmethod
    def of(cls, index: int, cell: Cell) -> Known:
        fields = {name: getattr(cell, name) for name in cell.__struct_fields__}
        return cls(index=index, cell=Cell(**{**fields, "samples": []}))


class Taken(Struct, tag="sample"):
    """A sample of a cell."""

    index: int
    sample: Sample


class Ended(Struct, tag="ended"):
    """Every round has been measured."""


Line = Begun | Joined | Known | Taken | Ended


class Journal:
    """Appends lines to a file, each one flushed: whatever ends the run, they are there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab")
        self.mend()

    @classmethod
    def begin(cls, path: Path, record: Record) -> Journal:
        """A new journal that starts from `record`, in the place of an older one."""
        write(path, _line(Begun(record=record)))
        journal = cls(path)
        _lock(journal._file)
        return journal

    def mend(self) -> None:
        """Drop half a last line, that of a process which was killed as it wrote."""
        content = self.path.read_bytes()
        if not content.endswith(b"\n"):
            os.truncate(self.path, content.rfind(b"\n") + 1)

    def append(self, line: Line) -> None:
        self._file.write(_line(line))
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def finish(self, record: Record, path: Path) -> None:
        """Save the record in one step; only then is the journal removed."""
        self.close()
        save(record, path)
        self.path.unlink(missing_ok=True)


def in_use(path: Path) -> bool:
    """Whether a run that still goes on writes the journal at `path`."""
    with path.open("ab") as file:
        return not _lock(file)


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


def apply(record: Record, line: Line) -> None:
    """What a line of the journal says, done to `record`."""
    if isinstance(line, Joined):
        record.processes[line.index : line.index + 1] = [line.process]
    elif isinstance(line, Known):
        line.cell.samples = record.cells[line.index].samples
        record.cells[line.index] = line.cell
    elif isinstance(line, Taken):
        record.cells[line.index].samples.append(line.sample)
    elif isinstance(line, Ended):
        record.complete = True


def journal_of(path: Path) -> Path:
    """Where the journal of the record at `path` lies."""
    return path.with_suffix(SUFFIX)


def save(record: Record, path: Path) -> None:
    """Write `record` to `path` in one step: the file is the old one or the new one, whole."""
    write(path, msgspec.json.format(msgspec.json.encode(record), indent=1))


def load(path: Path) -> Record:
    """Read a record, or the journal of one whose run did not end; raises RecordError with one line
    for anything else."""
    if path.is_dir():
        raise RecordError(f"{path} is a folder; give one of the records in it")
    journal = journal_of(path)
    if journal.exists():
        return _checked(path, _from_journal(journal))
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror or error}") from error
    try:
        _check_schema(path, msgspec.json.decode(content, type=_Schema).schema)
        record = msgspec.json.decode(content, type=Record)
    except msgspec.MsgspecError as error:
        raise RecordError(f"{path} is no tpprof record ({error})") from error
    return _checked(path, record)


def _from_journal(path: Path) -> Record:
    lines = path.read_bytes().split(b"\n")
    try:
        _check_schema(path, msgspec.json.decode(lines[0], type=_Opening).record.schema)
        record = msgspec.json.decode(lines[0], type=Begun).record
        for line in lines[1:-1]:  # what follows the last line break was being written
            apply(record, msgspec.json.decode(line, type=Line))
    except (msgspec.MsgspecError, IndexError) as error:
        raise RecordError(f"{path} is no journal of tpprof, or damaged ({error})") from error
    return record


def _check_schema(path: Path, schema: int) -> None:
    if schema < SCHEMA:
        raise RecordError(
            f"{path}: schema {schema} was written by an earlier tpprof; read it with that version, "
            "or measure again"
        )
    if schema != SCHEMA:
        raise RecordError(
            f"{path}: schema {schema} is unknown, this tpprof reads schema {SCHEMA}; "
            "read it with the version that wrote it, or measure again"
        )


def _checked(path: Path, record: Record) -> Record:
    """The record, if its parts fit each other; RecordError else."""
    for cell in record.cells:
        for sample in cell.samples:
            fits = len(sample.parts) == len(cell.parts)
            if not fits or sample.process >= len(record.processes):
                raise RecordError(f"{path} is damaged: a sample of {cell.method} does not fit it")
        if not all(map(fitting, cell.kept)):
            raise RecordError(
                f"{path} is damaged: kept tokens of {cell.method} are none of its own"
            )
    if record.picture is not None and not drawable(record.picture):
        raise RecordError(
            f"{path} is damaged: its picture is no JPEG, or its tokens do not lie in it"
        )
    return record


def _line(line: Line) -> bytes:
    return msgspec.json.encode(line) + b"\n"


def write(path: Path, content: bytes) -> None:
    """The whole of `content`, in one step."""
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


class _Schema(msgspec.Struct):
    schema: int


class _Opening(msgspec.Struct):
    record: _Schema
