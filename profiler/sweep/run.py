"""Block after block of a sweep, each a comparison in a process of its own.

What a block measures is in the journal beside its record, as of any comparison; what came of the
block, in the journal of the sweep. This process loads neither torch nor a model, so that neither
the memory of one model nor the end of one process is the next one's.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from ...methods.contract.errors import InputError
from ...reports.outputs import OutputError
from ...reports.record import files
from ...reports.record.base import RecordError
from ...reports.record.journal import Journal
from ...reports.sanitize import say
from ...reports.sweep.grid import (
    BlockLeft,
    Grid,
    GridBegun,
    Sweep,
    is_sweep,
    journal_of,
    load,
    record_of,
)
from ...reports.sweep.rows import title
from ..meters.clock import now
from ..run.interrupts import Terminated, terminable
from ..run.rounds import Progress
from ..subprocesses import python, reason_of
from .worker import UNWRITABLE, BlockStep, BlockTask

Measure = Callable[[BlockTask, Callable[[BlockStep], None]], tuple[int, str]]
"""Does one block in a process of its own and is told its steps: the exit code, and "" or how it
failed."""


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
    elif resume:
        say("nothing to resume: starting anew")
    return Journal.begin(journal_of(folder), GridBegun(grid=grid))


def run(
    grid: Grid, folder: Path, journal: Journal, tell: Progress, measure: Measure | None = None
) -> tuple[Sweep, int]:
    """Measure all blocks that have not come to their end; the sweep as it is then, and the exit
    code: 0, 1 if a cell failed, 130 for Ctrl-C, 143 for SIGTERM. Raises OutputError where the disk
    is full."""
    ended = [i for i in range(len(grid.blocks)) if files.is_finished(record_of(folder, i))]
    steps, code = _Steps(grid, tell, skipped=ended), 0
    try:
        with terminable():
            for index in range(len(grid.blocks)):
                if index not in ended:
                    _block(grid, index, folder, journal, steps, measure or in_a_process)
    except KeyboardInterrupt as stopped:
        code = 143 if isinstance(stopped, Terminated) else 130
    finally:
        journal.close()
    sweep = load(folder)
    return sweep, code or int(_failed(sweep))


def _block(
    grid: Grid, index: int, folder: Path, journal: Journal, steps: _Steps, measure: Measure
) -> None:
    """Measure a block, and note what came of it."""
    block, began = grid.blocks[index], now()
    failed = block.problem
    if not failed:
        out = str(record_of(folder, index))
        task = BlockTask(spec=block.spec, out=out, parent=os.getpid(), command=grid.command)
        code, failed = measure(task, steps.of(index))
        if code == UNWRITABLE:
            raise OutputError(failed)
    journal.append(BlockLeft(index=index, reason=failed, seconds=now() - began))
    steps.finish(index)


def _failed(sweep: Sweep) -> bool:
    cells = [cell for record in sweep.records if record for cell in record.cells]
    return not sweep.complete or bool(sweep.reasons) or any(cell.error for cell in cells)


class _Steps:
    """How far a sweep is, in cells, and how long it will take: from the blocks that were measured
    by now, and the rounds of the one that runs."""

    def __init__(self, grid: Grid, tell: Progress, skipped: Sequence[int]) -> None:
        self.grid, self.tell = grid, tell
        self.sizes = [
            0 if block.problem else 1 + len(block.cells) for block in grid.blocks
        ]  # with vanilla
        self.skipped = sum(self.sizes[index] for index in skipped)
        self.began, self.done = now(), 0.0

    def finish(self, index: int) -> None:
        self.done += self.sizes[index]

    def of(self, index: int) -> Callable[[BlockStep], None]:
        """What is told of a block as it runs."""
        part, name = 0.0, title(self.grid, index)

        def told(step: BlockStep) -> None:
            nonlocal part
            if step.total and not step.label.startswith("warm-up"):
                part = max(part, min(step.done / step.total, 1.0))
            done, total = self.done + part * self.sizes[index], sum(self.sizes)
            label = f"{name}: {step.label}{self._left(done)}"
            self.tell(label, round(self.skipped + done), total)

        return told

    def _left(self, done: float) -> str:
        if done <= 0:
            return ""
        to_come = sum(self.sizes) - self.skipped - done
        minutes = (now() - self.began) * to_come / done / 60
        return f", about {minutes:.0f} min left" if minutes >= 1 else ", less than 1 min left"


def in_a_process(task: BlockTask, told: Callable[[BlockStep], None]) -> tuple[int, str]:
    """Measure a block in a fresh process. Where this one is stopped, so is that one, as a
    comparison is: what it has measured is saved."""
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            python("from tpprof.profiler.sweep.worker import main; main()"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            start_new_session=True,  # Ctrl-C comes from here alone, once
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(msgspec.json.encode(task))
                process.stdin.close()
            for line in process.stdout:
                with contextlib.suppress(msgspec.MsgspecError):  # what a method prints is no step
                    told(msgspec.json.decode(line, type=BlockStep))
            process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            process.stdout.close()
        complaints.seek(0)
        lines = complaints.read().decode(errors="replace").strip().splitlines()
    code = process.returncode
    if code == 1:  # cells that failed say so themselves
        return code, "" if _ended(Path(task.out)) else reason_of(code, lines[-1] if lines else "")
    return code, reason_of(code, lines[-1] if lines else "")


def _ended(path: Path) -> bool:
    try:
        return files.load_run(path).complete
    except RecordError:
        return False
