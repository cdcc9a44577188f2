"""Every cell in a fresh process: allocator state, autotuning and luck of the process show.

This process loads neither torch nor the model; while one measures it only waits.
"""

from __future__ import annotations

import os

import msgspec

from ...methods.contract.errors import InputError
from ...reports.outputs import OutputError
from ...reports.record import files
from ...reports.record.journal import Journal
from ...reports.record.labels import name
from ...reports.record.schema import Record
from ...reports.record.spec import RunSpec, changed
from ..subprocesses import UNWRITABLE, finish, python, temporary_folder
from . import rounds
from .rounds import Progress
from .worker import Task

SILENTLY = "what it ran ended the process (exit code 0) before all was measured"


def empty_record(spec: RunSpec, command: str) -> Record:
    """The record of the run before anything is measured; raises InputError as the run would."""
    with temporary_folder() as folder:
        path = folder / "record"
        failed = _run(Task(spec=spec, command=command, out=str(path), parent=os.getpid()))
        if not failed and not path.exists():
            failed = SILENTLY
        if failed:
            raise InputError(failed)
        return msgspec.json.decode(path.read_bytes(), type=Record)


def run(journal: Journal, record: Record, tell: Progress) -> None:
    """Measure round by round until it is enough; what becomes known is in the journal."""
    path = journal.path
    # Chosen by the memory that was free: no process may choose another.
    spec = changed(record.spec, model=record.spec.model.name or record.model.name)
    done = rounds.complete(record)
    if not done or not rounds.enough(record, done, 0.0):
        for index, cell in enumerate(record.cells):
            if cell.error:  # of an earlier run: it is given another try
                cell.error = ""
                journal.append(files.Known.of(index, cell))
    newest = [record]

    def take(index: int, number: int, turn: int) -> None:
        task = Task(
            spec=spec, out=str(path), parent=os.getpid(), cell=index, round=number, turn=turn
        )
        failed = _run(task)
        journal.mend()
        newest[0] = files.load_run(path)
        if not failed and not _came_to_its_end(newest[0], index, number):
            failed = SILENTLY
        if failed:
            _note_failure(journal, newest[0], index, number, failed)
            newest[0] = files.load_run(path)

    rounds.follow(
        lambda: newest[0],
        take,
        tell,
        lambda cell, number: f"process {number + 1} of {name(cell)}",
    )
    if not record.spec.accuracy.accuracy:  # whose questions come behind
        journal.append(files.Ended())


def _came_to_its_end(record: Record, index: int, number: int) -> bool:
    """Whether the process of a cell and round did all that it was asked for, or says why not."""
    ended = any(
        (process.cell, process.round) == (index, number) and process.seconds is not None
        for process in record.processes
    )
    taken = any(sample.round == number for sample in record.cells[index].samples)
    return ended and (taken or bool(record.cells[index].error))


def _run(task: Task) -> str:
    """Do the task in a fresh process; returns "" or how it failed. Raises OutputError where the
    journal cannot be written."""
    command = python("from tpprof.profiler.run.worker import main; main()")
    code, failed = finish(command, msgspec.json.encode(task))
    if code == UNWRITABLE:
        raise OutputError(failed)
    return failed


def _note_failure(journal: Journal, record: Record, index: int, number: int, reason: str) -> None:
    """The cell ends with a reason; so does its process, if it had come to measure."""
    cell = record.cells[index]
    cell.error = cell.error or reason
    journal.append(files.Known.of(index, cell))
    for joined, process in enumerate(record.processes):
        if (process.cell, process.round) == (index, number) and process.seconds is None:
            process.outcome = reason
            journal.append(files.Joined(index=joined, process=process))
