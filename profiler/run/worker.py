"""A part of a run as plain data, and the process that does it.

It reads its task from stdin, appends what it measures to the journal, and says nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from ...methods.contract.errors import InputError
from ...reports.outputs import OutputError
from ...reports.record import files
from ...reports.record.base import RecordError, Struct
from ...reports.record.journal import Journal
from ...reports.record.spec import OptionError, RunSpec
from ...reports.sanitize import say
from ..subprocesses import UNWRITABLE, dies_with_its_parent
from ..tensor_parallel.launch import LOST, RankStep, RankTask


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


def rank_main() -> None:
    """One rank of a model that is spread, as torchrun starts it; its task is in the file that is
    named. The first one measures, and says so on stdout; the others do what it does."""
    dies_with_its_parent()
    task = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=RankTask)
    steps = sys.stdout.buffer

    def tell(step: RankStep) -> None:
        if lead:
            # A line of its own at one go, whatever gloo or a method has printed before it.
            steps.write(b"\n" + msgspec.json.encode(step) + b"\n")
            steps.flush()

    lead = os.environ["RANK"] == "0"
    try:
        tell(RankStep(code=_rank(task, tell)))
    except OutputError as error:
        tell(RankStep(wrong=str(error), code=UNWRITABLE))
    except (InputError, RecordError) as error:
        wrong = error.as_flag if isinstance(error, OptionError) else str(error)
        tell(RankStep(wrong=wrong, code=2))
    except BaseException as error:
        if type(error).__name__ != "LostRankError":
            raise
        say(str(error))
        os._exit(LOST)  # the groups of torch.distributed would wait for the lost one


def _rank(task: RankTask, tell: Callable[[RankStep], None]) -> int:
    from ..tensor_parallel.lockstep import Lockstep, rank_device

    lockstep = Lockstep.begun(rank_device(task.spec.model))
    if not lockstep.leads:
        from .comparison import Comparison

        with lockstep.made_together():
            comparison = Comparison(task.spec, lockstep=lockstep)
        comparison.follow()
        return 0
    from .recording import measure

    outcome = measure(
        task.spec,
        Path(task.out),
        lambda label, done, total: tell(RankStep(label=label, done=done, total=total)),
        command=task.command,
        resume=task.resume,
        trace=None if task.trace is None else Path(task.trace),
        overwrite=task.overwrite,
        lockstep=lockstep,
        begun=lambda path: tell(RankStep(path=str(path))),
    )
    if outcome.code < 128:
        lockstep.end()
    return outcome.code
