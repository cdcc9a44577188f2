"""Records as files. A run in progress is a journal, one line for each thing that happened; a run
that has ended is one JSON file, written in one step."""

from __future__ import annotations

from pathlib import Path

import msgspec

from .base import RecordError, Struct, Versioned, decode_versioned, require_schema
from .journal import SUFFIX, Journal, read_lines, write_whole
from .kept import drawable, fitting
from .schema import SCHEMA, Cell, Process, Record, Sample

AGAIN = "measure again"


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
    return path.with_suffix(SUFFIX) if path.name else path


def save(record: Record, path: Path) -> None:
    """Write `record` to `path` in one step: the file is the old one or the new one, whole."""
    write_whole(path, msgspec.json.format(msgspec.json.encode(record), indent=1))


def finish(journal: Journal, record: Record, path: Path) -> None:
    """Save the record of a run in one step; only then is its journal removed."""
    journal.close()
    save(record, path)
    journal.path.unlink(missing_ok=True)


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
    record = decode_versioned(content, Record, SCHEMA, path, "tpprof record", AGAIN)
    return _checked(path, record)


def _from_journal(path: Path) -> Record:
    try:
        lines = read_lines(path)
        found = msgspec.json.decode(lines[0], type=_Opening).record.schema
        require_schema(path, found, SCHEMA, AGAIN)
        record = msgspec.json.decode(lines[0], type=Begun).record
        for line in lines[1:]:
            apply(record, msgspec.json.decode(line, type=Line))
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror or error}") from error
    except (msgspec.MsgspecError, IndexError, RecursionError) as error:
        raise RecordError(f"{path} is no journal of tpprof, or damaged ({error})") from error
    return record


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


class _Opening(msgspec.Struct):
    record: Versioned
