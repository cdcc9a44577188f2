"""A part of a run as plain data, and the process that does it.

It reads its task from stdin, appends what it measures to the journal, and says nothing.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from ...methods.contract.errors import InputError
from ...reports.outputs import OutputError
from ...reports.record import files
from ...reports.record.base import RecordError, Struct
from ...reports.record.journal import Journal
from ...reports.record.spec import OptionError, RunSpec
from ...reports.sanitize import say
from ..subprocesses import UNWRITABLE


class Task(Struct):
    """One cell of a run in one round; without a cell, only the empty record is asked for.

    out: the journal, or where the empty record goes. parent: PID of the process that asks.
    """

    spec: RunSpec
    out: str
    parent: int
    command: str = ""
    cell: int | None = None
    round: int = 0
    turn: int = 0


def main() -> None:
    """Do the task on stdin. Exit code 2 and one line for bad input, UNWRITABLE for a full disk."""
    from .comparison import Comparison

    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    try:
        comparison = Comparison(task.spec, command=task.command)
        if task.cell is None:
            comparison.calibrate()
    except (InputError, RecordError) as error:
        say(error.as_flag if isinstance(error, OptionError) else str(error))
        raise SystemExit(2) from None
    path = Path(task.out)
    if task.cell is None:
        try:
            path.write_bytes(msgspec.json.encode(comparison.record))
        except OSError as error:
            say(f"{path} cannot be written ({error.strerror or error})")
            raise SystemExit(UNWRITABLE) from None
        return

    def wanted() -> bool:
        return os.getppid() == task.parent

    if wanted():  # else the parent was killed, and the journal may be another run's by now
        try:
            comparison.adopt(files.load_run(path))
            comparison.journal = Journal(path)
            comparison.run_cell(task.cell, task.round, task.turn, wanted)
        except OutputError as error:
            say(str(error))
            raise SystemExit(UNWRITABLE) from None
