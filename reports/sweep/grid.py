"""A sweep as files in one folder: its grid and what came of each block in a journal, and beside it
the record of each block."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from ..record import files
from ..record.base import Amount, Count, RecordError, Struct, Versioned, about, require_schema
from ..record.journal import is_empty, read_lines
from ..record.schema import Record
from ..record.spec import RunSpec
from ..sanitize import say

SCHEMA = 1
AGAIN = "sweep again"
AXES = (
    "model",
    "device",
    "dtype",
    "backend",
    "image_size",
    "layout",
    "preprocess",
    "visual_tokens",
    "new_tokens",
    "batch_size",
    "keep",
)
"""Options that a sweep takes several values of, from the outermost in."""


class GridCell(Struct):
    """A method with one budget in a block."""

    method: Annotated[str, about("As a spec string, its budget included.")]
    base: Annotated[str, about("As it was named.")]
    keep: Annotated[str | None, about("Its budget; None for a method without.")] = None
    peak_bytes: Annotated[Count | None, about("Planned peak memory.")] = None
    floor_seconds: Annotated[Amount | None, about("Least time of a request on the device.")] = None
    problem: Annotated[str, about("Why it cannot be planned.")] = ""


class GridBlock(Struct):
    """One comparison of the grid: what is compared with what stays inside it."""

    spec: Annotated[RunSpec, about("What it runs.")]
    axes: Annotated[dict[str, str], about("Where it stands on the axes of the grid, by keyword.")]
    cells: Annotated[list[GridCell], about("Its methods and budgets.")]
    problem: Annotated[str, about("Why nothing of it can be planned.")] = ""


class Grid(Struct):
    """All that a sweep measures."""

    schema: int
    tpprof: Annotated[str, about("Version of tpprof that measures.")]
    created: Annotated[str, about("When it began, ISO 8601.")]
    command: Annotated[str, about("The command line.")]
    blocks: list[GridBlock]


class GridBegun(Struct, tag="sweep"):
    """The first line of the journal."""

    grid: Grid


class BlockLeft(Struct, tag="block"):
    """A block has ended, well or not."""

    index: Count
    reason: str = ""


class _GridOpening(msgspec.Struct):
    grid: Versioned


@dataclass(frozen=True)
class Sweep:
    """A sweep so far. records: of each block, None where none has begun. reasons: why a block came
    to no end, by its index; those that ended well have none."""

    grid: Grid
    records: list[Record | None]
    reasons: dict[int, str]

    @property
    def complete(self) -> bool:
        """Whether every block has come to its end."""
        return all(
            block.problem or (record is not None and record.complete)
            for block, record in zip(self.grid.blocks, self.records, strict=True)
        )


def journal_of(folder: Path) -> Path:
    return folder / "sweep.jsonl"


def record_of(folder: Path, index: int) -> Path:
    """Where the record of a block lies."""
    return folder / f"block-{index:03}.json"


def is_sweep(folder: Path) -> bool:
    """Whether a sweep was begun in this folder."""
    return folder.is_dir() and not is_empty(journal_of(folder))


def load(folder: Path) -> Sweep:
    """Read what a sweep has measured; raises RecordError with one line. A line behind the first
    that cannot be read is left out, and said: what was measured is in the records."""
    path = journal_of(folder)
    if not is_sweep(folder):
        raise RecordError(f"{folder} holds no sweep; `tpprof sweep --out {folder}` makes one")
    try:
        first, *lines = read_lines(path)
        require_schema(
            path, msgspec.json.decode(first, type=_GridOpening).grid.schema, SCHEMA, AGAIN
        )
        grid = msgspec.json.decode(first, type=GridBegun).grid
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror or error}") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(f"{path} is no journal of a sweep, or damaged ({error})") from error
    reasons = _reasons(path, lines, len(grid.blocks))
    records: list[Record | None] = []
    for index, block in enumerate(grid.blocks):
        try:
            records.append(_record(record_of(folder, index), block))
        except RecordError as error:
            records.append(None)
            reasons[index] = str(error)
    return Sweep(grid, records, {index: why for index, why in reasons.items() if why})


def _reasons(path: Path, lines: list[bytes], blocks: int) -> dict[int, str]:
    """What came of the blocks, by their index."""
    found = {}
    for number, line in enumerate(lines, 2):
        try:
            left = msgspec.json.decode(line, type=BlockLeft)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            say(f"! line {number} of {path} is left out: {error}")
            continue
        if left.index < blocks:
            found[left.index] = left.reason
    return found


def is_finished(folder: Path, index: int, block: GridBlock) -> bool:
    """Whether the record of a block that came to its end is there, and is this block's."""
    path = record_of(folder, index)
    try:
        return files.is_finished(path) and _record(path, block) is not None
    except RecordError:
        return False


def _record(path: Path, block: GridBlock) -> Record | None:
    if not path.exists() and is_empty(files.journal_of(path)):
        return None
    record = files.load_run(path)
    if record.spec != block.spec:
        raise RecordError(f"{path.name} is the record of another comparison")
    return record
