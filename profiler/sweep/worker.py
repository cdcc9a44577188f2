"""The process that measures one block of a sweep: its task comes from stdin, and its steps go to
stdout, a line of JSON each."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from ...methods.contract.errors import InputError
from ...reports.outputs import OutputError
from ...reports.record.base import RecordError, Struct
from ...reports.record.spec import OptionError, RunSpec
from ...reports.sanitize import say
from ..run.recording import measure
from ..subprocesses import UNWRITABLE

__all__ = ["UNWRITABLE", "BlockStep", "BlockTask", "main"]


class BlockTask(Struct):
    """A comparison. out: its record."""

    spec: RunSpec
    out: str
    command: str = ""


class BlockStep(Struct):
    """How far it is, as `rounds.Progress` is told."""

    label: str
    done: int
    total: int


def main() -> None:
    """Do the task on stdin, going on with what is there of it. Exit codes: those of `measure`, 2
    and one line for bad input, UNWRITABLE for a full disk."""
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=BlockTask)
    steps = sys.stdout.buffer

    def tell(label: str, done: int, total: int) -> None:
        steps.write(msgspec.json.encode(BlockStep(label=label, done=done, total=total)) + b"\n")
        steps.flush()

    try:
        outcome = measure(task.spec, Path(task.out), tell, command=task.command, resume=True)
    except OutputError as error:
        say(str(error))
        raise SystemExit(UNWRITABLE) from None
    except (InputError, RecordError) as error:
        say(error.as_flag if isinstance(error, OptionError) else str(error))
        raise SystemExit(2) from None
    raise SystemExit(outcome.code)
