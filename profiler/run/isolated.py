"""Every cell in a fresh process: allocator state, autotuning and luck of the process show.

This process loads neither torch nor the model; while one measures it only waits.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec

from ...methods.contract.errors import InputError
from ...reports.record import files
from ...reports.record.labels import name
from ...reports.record.schema import Record
from ..meters.clock import now
from ..subprocesses import finish, python
from . import rounds
from .rounds import Progress
from .worker import Job, Task


def empty_record(job: Job) -> Record:
    """The record of the job before anything is measured; raises InputError as the job would."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record"
        failed = _run(Task(job=job, out=str(path), parent=os.getpid()))
        if failed:
            raise InputError(failed)
        return msgspec.json.decode(path.read_bytes(), type=Record)


def run(job: Job, journal: files.Journal, record: Record, tell: Progress) -> None:
    """Measure round by round until it is enough; what becomes known is in the journal."""
    path, began = journal.path, now()
    if job.model is None:  # chosen by the memory that was free: no process may choose another
        job.model = record.model.name
    done = first = rounds.complete(record)
    if done and rounds.enough(record, done, 0.0):
        journal.append(files.Ended())
        return
    for index, cell in enumerate(record.cells):
        if cell.error:  # of an earlier run: it is given another try
            cell.error = ""
            journal.append(files.Known.of(index, cell))
    number = rounds.begun(record)
    while not all(cell.error for cell in record.cells):
        spent, done = now() - began, rounds.complete(record)
        if rounds.enough(record, done, spent):
            break
        left = rounds.left(job.settings, done - first, spent)
        alive = [index for index, cell in enumerate(record.cells) if not cell.error]
        for turn, chosen in enumerate(rounds.order(len(alive), number)):
            index = alive[chosen]
            label = f"process {number + 1} of {name(record.cells[index])}"
            tell(label, done * len(alive) + turn, (done + left) * len(alive))
            task = Task(
                job=job, out=str(path), parent=os.getpid(), cell=index, round=number, turn=turn
            )
            failed = _run(task)
            record = files.load(path)
            if failed:
                journal.mend()
                _note_failure(journal, record, index, number, failed)
        record = files.load(path)
        number += 1
    journal.append(files.Ended())


def _run(task: Task) -> str:
    """Do the task in a fresh process; returns "" or how it failed."""
    command = python("from tpprof.profiler.run.worker import main; main()")
    return finish(command, msgspec.json.encode(task))[1]


def _note_failure(
    journal: files.Journal, record: Record, index: int, number: int, reason: str
) -> None:
    """The cell ends with a reason; so does its process, if it had come to measure."""
    cell = record.cells[index]
    cell.error = cell.error or reason
    journal.append(files.Known.of(index, cell))
    for joined, process in enumerate(record.processes):
        if (process.cell, process.round) == (index, number) and process.seconds is None:
            process.outcome = reason
            journal.append(files.Joined(index=joined, process=process))
