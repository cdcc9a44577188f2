"""The cells of a sweep in numbers: what is on the front of each block, and best for each budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..analysis.accuracy.scores import Score, of_record
from ..analysis.intervals import Estimate
from ..analysis.summary import Row, front, rows
from ..record.schema import Record
from .grid import Grid, GridBlock, GridCell, Sweep

NOT_YET = "not measured yet"
Worth = Callable[["GridRow"], "float | None"]


@dataclass(frozen=True)
class GridRow:
    """A cell of the grid. block: the index of the block that it is compared in. axes: where that
    stands. base, keep: the method as it was named, and its budget. row: what was measured, None
    where nothing was, for which `reason` says why. score: what it answered, where it was asked."""

    block: int
    axes: dict[str, str]
    method: str
    base: str
    keep: str | None
    row: Row | None = None
    reason: str = ""
    score: Score | None = None

    @property
    def is_vanilla(self) -> bool:
        return self.base.partition(":")[0] == "vanilla"

    @property
    def tokens(self) -> float | None:
        """Mean over decoder layers of the visual tokens that enter one."""
        return self.row.visual_mean if self.row else None

    @property
    def latency(self) -> Estimate | None:
        """Seconds of a request."""
        return self.row.latency if self.row else None

    @property
    def gain(self) -> Estimate | None:
        """The speed-up as it was measured, end to end."""
        return self.row.speedup if self.row else None

    @property
    def speedup(self) -> float | None:
        """The same without its interval."""
        return self.gain.value if self.gain else None

    @property
    def attention(self) -> str | None:
        """The policy by which it read attention; None where it reads none."""
        cell = self.row.cell if self.row else None
        return cell.attention if cell and cell.reads_attention else None

    @property
    def peak_bytes(self) -> int | None:
        return self.row.peak_bytes if self.row else None

    @property
    def f1(self) -> Estimate | None:
        """F1 of its answers."""
        return self.score.f1 if self.score else None

    @property
    def label(self) -> str:
        """The cell as figures name it."""
        return f"{self.method}, {self.attention}" if self.attention else self.method


def grid_rows(sweep: Sweep) -> list[GridRow]:
    """All cells of the grid, block by block: the measured ones, and of a block that was not, those
    that were wanted, with the reason."""
    found = []
    for index, (block, record) in enumerate(zip(sweep.grid.blocks, sweep.records, strict=True)):
        why = sweep.reasons.get(index, "")
        if record is None:
            found += _wanted(index, block, block.problem or why or NOT_YET)
        else:
            found += _measured(index, block, record, why or NOT_YET)
    return found


def varied(grid: Grid) -> list[str]:
    """The axes on which blocks differ."""
    names = dict.fromkeys(name for block in grid.blocks for name in block.axes)
    return [name for name in names if len({block.axes.get(name) for block in grid.blocks}) > 1]


def titles(grid: Grid) -> list[str]:
    """The blocks by what tells each from the others."""
    names = varied(grid)
    return [
        ", ".join(words(name, block.axes[name]) for name in names if name in block.axes)
        or block.axes.get("model")
        or f"block {index}"
        for index, block in enumerate(grid.blocks)
    ]


def words(axis: str, value: str) -> str:
    """A place on an axis as a heading says it."""
    return value if axis in ("model", "device", "layout") else f"{axis.replace('_', ' ')} {value}"


def _wanted(index: int, block: GridBlock, reason: str) -> list[GridRow]:
    return [
        GridRow(index, block.axes, c.method, c.base, c.keep, reason=c.problem or reason)
        for c in block.cells
    ]


def _measured(index: int, block: GridBlock, record: Record, why: str) -> list[GridRow]:
    known, scored = {cell.method: cell for cell in block.cells}, of_record(record)
    found = []
    for row in rows(record):
        cell = row.cell
        asked = known.get(cell.method)
        if asked is None:
            keep = None if cell.name == "vanilla" else block.spec.cells.keep
            asked = GridCell(method=cell.method, base=cell.name, keep=keep)
        reason = cell.error or ("" if row.latency else why)
        score = scored.get(cell.method)
        found.append(
            GridRow(index, block.axes, cell.method, asked.base, asked.keep, row, reason, score)
        )
    return found


def by_tokens(row: GridRow) -> float | None:
    return row.tokens


def by_f1(row: GridRow) -> float | None:
    return row.f1.value if row.f1 else None


def front_of(listed: Sequence[GridRow], worth: Worth, kept: Worth = by_tokens) -> set[int]:
    """Places of the rows that no other of the same block beats: none keeps as much and is worth as
    much, and one of them more. kept: what a row keeps, visual tokens or F1."""
    blocks: dict[int, list[tuple[float, float, int]]] = {}
    for place, row in enumerate(listed):
        stays, value = kept(row), worth(row)
        if stays is not None and value is not None:
            blocks.setdefault(row.block, []).append((stays, value, place))
    return {
        points[place][2]
        for points in blocks.values()
        for place in front([(stays, value) for stays, value, _ in points])
    }


@dataclass(frozen=True)
class Fastest:
    """The fastest of a block at one budget. rivals: others that the clock cannot tell from it, for
    their intervals overlap or are not known."""

    row: GridRow
    rivals: Sequence[GridRow]


def best_by_budget(listed: Iterable[GridRow]) -> list[Fastest]:
    """The fastest method of each block and budget, in the order of the grid."""
    groups: dict[tuple[int, str | None], list[GridRow]] = {}
    for row in listed:
        if row.speedup is not None and not row.is_vanilla:
            groups.setdefault((row.block, row.keep), []).append(row)
    found = []
    for group in groups.values():
        best = max(group, key=lambda row: row.speedup or 0.0)
        found.append(Fastest(best, [row for row in group if row is not best and _close(row, best)]))
    return found


def _close(row: GridRow, best: GridRow) -> bool:
    own, other = row.gain, best.gain
    if not own or not other or own.high is None or other.low is None:
        return True
    return own.high >= other.low
