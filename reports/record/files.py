"""Records as files. A run in progress is a journal, one line for each thing that happened; a run
that has ended is one JSON file, written in one step."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from ..outputs import write
from ..sanitize import quoted
from .accuracy import Accuracy, fits
from .base import Count, RecordError, Struct, Versioned, decode_versioned, require_schema
from .journal import SUFFIX, Journal, is_empty, read_lines
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


class Asked(Struct, tag="asked"):
    """What is asked of the rows for their accuracy; nothing is answered yet."""

    accuracy: Accuracy


class Answered(Struct, tag="answered"):
    """What a row answered, by the places of the questions; or why it could not."""

    row: Count
    places: list[Count] = []
    texts: list[str] = []
    error: str = ""


class Ended(Struct, tag="ended"):
    """All that was asked for has been done."""


Line = Begun | Joined | Known | Taken | Asked | Answered | Ended


def apply(record: Record, line: Line) -> None:
    """What a line of the journal says, done to `record`."""
    if isinstance(line, Joined):
        record.processes[line.index : line.index + 1] = [line.process]
    elif isinstance(line, Known):
        line.cell.samples = record.cells[line.index].samples
        if not all(_fits(sample, line.cell, record) for sample in line.cell.samples):
            raise ValueError(f"a cell that its samples do not fit, {line.cell.method}")
        record.cells[line.index] = line.cell
    elif isinstance(line, Taken):
        cell = record.cells[line.index]
        if not _fits(line.sample, cell, record):
            raise ValueError(f"a sample that does not fit {cell.method}")
        cell.samples.append(line.sample)
    elif isinstance(line, Asked):
        record.accuracy = line.accuracy
    elif isinstance(line, Answered):
        _answer(record.accuracy, line)
    elif isinstance(line, Ended):
        record.complete = True


def _answer(accuracy: Accuracy | None, line: Answered) -> None:
    if accuracy is None:
        raise ValueError("an answer to no question")
    row = accuracy.answers[line.row]
    row.error = line.error
    row.texts = row.texts or [None] * len(accuracy.questions)
    for place, text in zip(line.places, line.texts, strict=True):
        row.texts[place] = text


def journal_of(path: Path) -> Path:
    """Where the journal of the record at `path` lies."""
    return path.with_suffix(SUFFIX) if path.name else path


def save(record: Record, path: Path, *, overwrite: bool = False) -> None:
    """Write `record` to `path` in one step: the file is the old one or the new one, whole. Raises
    OutputError."""
    content = msgspec.json.format(msgspec.json.encode(record), indent=1)
    write(path, content, "record", overwrite=overwrite)


def finish(journal: Journal, record: Record, path: Path, *, overwrite: bool = False) -> bool:
    """Save the record of a run in one step; only then is its journal removed. A run that did not
    come to its end does not take the place of one that did: it stays a journal. Whether it was
    saved; raises OutputError where it could not be."""
    if not record.complete and is_finished(path):
        journal.close()
        return False
    save(record, path, overwrite=overwrite)
    journal.path.unlink(missing_ok=True)
    journal.close()
    return True


def is_finished(path: Path) -> bool:
    """Whether the record of a run that came to its end is there."""
    try:
        return path.is_file() and _saved(path).complete
    except RecordError:
        return False


def load(path: Path) -> Record:
    """Read a record, or the journal of one whose run did not end; raises RecordError with one line
    for anything else. Of a finished record and the journal of a later run beside it, the
    record."""
    if os.path.isdir(path):
        raise RecordError(f"{path} is a folder; give one of the records in it")
    if path.suffix == SUFFIX or not (is_empty(journal_of(path)) or is_finished(path)):
        return load_run(path)
    return _saved(path)


def load_run(path: Path) -> Record:
    """Read the record of the last run: its journal, where that did not end."""
    journal = journal_of(path)
    if is_empty(journal):
        return _saved(path)
    return _checked(journal, _from_journal(journal))


def _saved(path: Path) -> Record:
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise RecordError(f"{quoted(str(path), 300)}: {_why(error)}") from error
    record = decode_versioned(content, Record, SCHEMA, path, "tpprof record", AGAIN)
    return _checked(path, record)


def _why(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _from_journal(path: Path) -> Record:
    """All that can be read of a journal; a line that cannot is left out, and the record warns."""
    try:
        first, *lines = read_lines(path)
        found = msgspec.json.decode(first, type=_Opening).record.schema
        require_schema(path, found, SCHEMA, AGAIN)
        record = msgspec.json.decode(first, type=Begun).record
    except OSError as error:
        raise RecordError(f"{path}: {_why(error)}") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(f"{path} is no journal of tpprof, or damaged ({error})") from error
    for number, line in enumerate(lines, 2):
        try:
            apply(record, msgspec.json.decode(line, type=Line))
        except (msgspec.MsgspecError, ValueError, IndexError, RecursionError) as error:
            record.environment.warnings.append(f"line {number} of {path} is left out: {error}")
    return record


def _checked(path: Path, record: Record) -> Record:
    """The record, if its parts fit each other; RecordError else."""
    for cell in record.cells:
        for sample in cell.samples:
            if not _fits(sample, cell, record):
                raise RecordError(f"{path} is damaged: a sample of {cell.method} does not fit it")
        if not all(map(fitting, cell.kept)):
            raise RecordError(
                f"{path} is damaged: kept tokens of {cell.method} are none of its own"
            )
    if record.accuracy is not None and not fits(record.accuracy):
        raise RecordError(f"{path} is damaged: it has not an answer to each question")
    if record.picture is not None and not drawable(record.picture):
        raise RecordError(
            f"{path} is damaged: its picture is no JPEG, or its tokens do not lie in it"
        )
    return record


def _fits(sample: Sample, cell: Cell, record: Record) -> bool:
    """Whether its parts are those of its cell, and its process one of the record's."""
    return len(sample.parts) == len(cell.parts) and sample.process < len(record.processes)


class _Opening(msgspec.Struct):
    record: Versioned
