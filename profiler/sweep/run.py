"""Block after block of a sweep, each a comparison in a process of its own.

What a block measures is in the journal beside its record, as of any comparison; what came of the
block, in the journal of the sweep. This process loads neither torch nor a model, so that neither
the memory of one model nor the end of one process is the next one's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from ...methods.contract.errors import InputError
from ...reports.outputs import OutputError
from ...reports.record.journal import Journal, encoded
from ...reports.sanitize import say
from ...reports.sweep.grid import (
    BlockLeft,
    Grid,
    GridBegun,
    Sweep,
    is_finished,
    is_sweep,
    journal_of,
    load,
    record_of,
)
from ...reports.sweep.rows import titles
from ..accuracy.beside import QUESTIONS
from ..meters.clock import now
from ..run.interrupts import Terminated, terminable
from ..run.rounds import Progress
from .blocks import BlockEnded, Indexed, Measure, in_a_process
from .on_ray import Cluster
from .worker import UNWRITABLE, BlockStep, BlockTask

WARM = 4  # requests of a cell before its rounds, about
ASKING = 0.5  # of a comparison, about, are its questions, where there are any


def begin(grid: Grid, folder: Path, *, resume: bool) -> Journal:
    """The journal of a sweep in `folder`. resume: go on with what lies there; what has ended stays.

    Raises InputError where the folder holds another sweep, OutputError where it cannot be written.
    """
    if is_sweep(folder):
        if not resume:
            raise InputError(
                f"{folder} holds a sweep: go on with it by --resume, or give another --out"
            )
        earlier = load(folder)
        if [block.spec for block in earlier.grid.blocks] != [block.spec for block in grid.blocks]:
            raise InputError(f"--resume goes on with the same grid only, and {folder} has another")
    elif strays := sorted(folder.glob("block-*.json*")):
        raise InputError(
            f"{folder} holds {strays[0].name}, and no sweep that it is of: give another --out"
        )
    elif resume:
        say("nothing to resume: starting anew")
    return Journal.begin(journal_of(folder), GridBegun(grid=grid))


def run(
    grid: Grid,
    folder: Path,
    journal: Journal,
    tell: Progress,
    measure: Measure | None = None,
    cluster: Cluster | None = None,
) -> tuple[Sweep, int]:
    """Measure all blocks that have not come to their end; the sweep as it is then, and the exit
    code: 0, 1 if a cell failed, 130 for Ctrl-C, 143 for SIGTERM. measure: one of them, in the place
    of a process. cluster: where they are spread over. Raises OutputError where the disk is full."""
    ended = {i for i, block in enumerate(grid.blocks) if is_finished(folder, i, block)}
    steps, code = _Steps(grid, tell, skipped=ended), 0
    tasks: list[Indexed] = []
    for index, block in enumerate(grid.blocks):
        if block.problem:
            journal.append(BlockLeft(index=index, reason=block.problem))
        elif index not in ended:
            out = str(record_of(folder, index))
            task = BlockTask(spec=block.spec, out=out, command=grid.command)
            tasks.append((index, task))
    begun = encoded(GridBegun(grid=grid))
    try:
        with terminable():
            one_by_one = _in_turn(tasks, steps, measure or in_a_process)
            spread = cluster.spread(tasks, begun, steps.share) if cluster else one_by_one
            for left in spread:
                if left.code == UNWRITABLE:
                    raise OutputError(left.failed)
                journal.append(BlockLeft(index=left.index, reason=left.failed))
                steps.finish(left.index, measured=not left.failed)
    except KeyboardInterrupt as stopped:
        code = 143 if isinstance(stopped, Terminated) else 130
    finally:
        journal.close()
    sweep = load(folder)
    return sweep, code or int(_failed(sweep))


def _in_turn(tasks: Sequence[Indexed], steps: _Steps, measure: Measure) -> Iterator[BlockEnded]:
    for index, task in tasks:
        yield BlockEnded(index, *measure(task, steps.of(index)))


def _failed(sweep: Sweep) -> bool:
    records = [record for record in sweep.records if record]
    cells = any(cell.error for record in records for cell in record.cells)
    asked = [record.accuracy.answers for record in records if record.accuracy]
    unanswered = any(row.error for answers in asked for row in answers)
    return not sweep.complete or bool(sweep.reasons) or cells or unanswered


class _Steps:
    """How far a sweep is, in cells, and how long it will take, once that is known: from the
    comparisons that have ended, or, in the first one, from its first whole round on. How long
    loading and warming up take says nothing of what comes."""

    def __init__(self, grid: Grid, tell: Progress, skipped: Collection[int]) -> None:
        self.grid, self.tell, self.titles = grid, tell, titles(grid)
        self.sizes = [
            0 if block.problem else 1 + len(block.cells) for block in grid.blocks
        ]  # with vanilla
        self.total = sum(self.sizes)
        self.skipped = sum(self.sizes[index] for index in skipped)
        self.began, self.done, self.ended = now(), 0, 0
        self.at_once = 1  # comparisons, about: so many must have ended before one can say how long

    @property
    def to_come(self) -> int:
        """Cells of comparisons that have not ended."""
        return self.total - self.skipped - self.done

    @property
    def each(self) -> float | None:
        """Seconds between the ends of two cells, by the comparisons that have ended."""
        return (now() - self.began) / self.done if self.ended >= self.at_once else None

    def share(self, at_once: int) -> None:
        """Told how many comparisons run at once."""
        self.at_once = at_once

    def finish(self, index: int, *, measured: bool = True) -> None:
        """measured: whether it took the time of one; what fails at once says nothing of others."""
        if not measured:
            self.skipped += self.sizes[index]
        else:
            self.done += self.sizes[index]
            self.ended += 1
        left = None if self.each is None else self.each * self.to_come
        label = f"{self.titles[index]}: done{_left(left) if self.to_come else ''}"
        self.tell(label, self.skipped + self.done, self.total)

    def of(self, index: int) -> Callable[[BlockStep], None]:
        """What is told of a block as it runs."""
        part, name, size = 0.0, self.titles[index], self.sizes[index]
        spec = self.grid.blocks[index].spec
        timed = 1 - ASKING * spec.accuracy.accuracy
        warm = timed * WARM / (WARM + spec.stopping.least)
        running = _Running(size)
        # From the ends of the others: what has passed of this one is no part of it.
        each = self.each

        def told(step: BlockStep) -> None:
            nonlocal part
            share = min(step.done / step.total, 1.0) if step.total else 0.0
            if step.label.startswith("warm-up"):
                part = max(part, warm * share)
            elif step.label.startswith(QUESTIONS):
                part = max(part, timed + (1 - timed) * share)
            else:
                part = max(part, warm + (timed - warm) * share)
            left = running.left(step, each)
            if left is not None:
                mine = (running.spent + left) / size if each is None else each
                left += mine * (self.to_come - size)
            done = self.skipped + self.done + part * size
            self.tell(f"{name}: {step.label}{_left(left)}", round(done), self.total)

        return told


class _Running:
    """How long the comparison that runs will still take. size: its cells."""

    def __init__(self, size: int) -> None:
        self.size, self.began = size, now()
        self._first: tuple[float, int] | None = None  # when its rounds began, and with which step
        self._last, self._behind = 0, False  # of its rounds: what it still does, one cannot say

    @property
    def spent(self) -> float:
        return now() - self.began

    def left(self, step: BlockStep, each: float | None) -> float | None:
        """Seconds; None while that is not known. each: what a cell of earlier ones took."""
        if each is not None:
            return max(0.0, each * self.size - self.spent)
        if step.label.startswith("warm-up"):
            return None
        if self._first is None:
            self._first = (now(), step.done)
        (began, first) = self._first
        behind = step.done < self._last or step.label.startswith(QUESTIONS)
        self._behind, self._last = self._behind or behind, step.done
        if self._behind or step.done - first < self.size:
            return None
        return (now() - began) * (step.total - step.done) / (step.done - first)


def _left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes = seconds / 60
    return f", about {minutes:.0f} min left" if minutes >= 1 else ", less than 1 min left"
