"""Counting for the exact gate: in a process of its own, for the methods that it loads may end it.

The judge, in the process that asks, loads none of them: it gets plain counts, or a reason.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal

import msgspec

from ...methods.contract.errors import InputError, first_line
from ...methods.contract.plan_checks import plan_for, resized_for
from ...methods.contract.plugins import line_of
from ...reports.gate.baseline import Snapshot
from ...reports.gate.tolerant_record import reading
from ...reports.gate.verdicts import NoVerdictError
from ...reports.record.base import RecordError, Struct
from ...reports.record.spec import RunSpec, Subject
from ...reports.record.spec_files import rooted
from ..models.errors import ModelError
from ..models.registry import known_shapes
from ..subprocesses import ask, python
from ..workload import by_size, request_sizes
from .probe import answering

AGAIN = 3
"""Requests behind the one that is counted, which must keep the same tokens: a method may change its
mind."""
PATIENT = {"OMP_WAIT_POLICY": "passive"}
"""Nothing is timed here. torch's threads wait for each other in a loop that keeps their cores: on a
busy machine, where one of them is not running, the same counts took many times as long."""


class CountTask(Struct):
    """What is asked of the process. folder: where relative paths of the subject lead from. count:
    whether to count; else it is only looked whether the methods exist and can be planned. out,
    token: see `subprocesses.ask`."""

    subject: Subject
    folder: str
    count: bool
    out: str = ""
    token: str = ""


class Counted(Struct):
    """The answer. problem: what kept it from being counted: the model (not on this machine), the
    input (a method that does not exist, a plug-in that fails) or anything else."""

    snapshot: Snapshot | None = None
    problem: Literal["", "model", "input", "failure"] = ""
    reason: str = ""


def count_cells(subject: Subject, folder: Path) -> Snapshot:
    """The counts of all cells. Raises ModelError or InputError for what does not exist here, and
    NoVerdictError where what runs ends the process or fails outside of a cell."""
    counted = _asked(subject, folder, count=True)
    if counted.snapshot is None:
        raise NoVerdictError("nothing was counted")
    return counted.snapshot


def require_methods(subject: Subject) -> None:
    """Raises InputError for methods that do not exist or cannot be planned, and plug-ins that
    fail."""
    try:
        _asked(subject, Path(), count=False)
    except NoVerdictError as error:
        raise InputError(str(error)) from error


def _asked(subject: Subject, folder: Path, *, count: bool) -> Counted:
    task = CountTask(subject=subject, folder=str(folder.resolve()), count=count)
    command = python("from tpprof.profiler.gate.counting import main; main()")
    _, failure, answer = ask(command, msgspec.to_builtins(task), {**PATIENT, **os.environ})
    if failure:
        raise NoVerdictError(f"the process that counts did not come to its end: {failure}")
    try:
        counted = msgspec.json.decode(answer, type=Counted)
    except msgspec.MsgspecError as error:
        raise NoVerdictError(f"its counts cannot be read ({error})") from error
    if counted.problem == "model":
        raise ModelError(counted.reason)
    if counted.problem == "input":
        raise InputError(counted.reason)
    if counted.problem:
        raise NoVerdictError(f"it fails: {counted.reason}")
    return counted


def main() -> None:
    """Do the task on stdin."""
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=CountTask)
    answers = answering(task.out, task.token)
    answers.append(msgspec.json.encode(_done(task)))


def _done(task: CountTask) -> Counted:
    try:
        if not task.count:
            _look(task.subject)
            return Counted()
        return Counted(snapshot=_count(task.subject, Path(task.folder)))
    except KeyboardInterrupt:
        raise
    except ModelError as error:
        return Counted(problem="model", reason=str(error))
    except (InputError, RecordError) as error:
        return Counted(problem="input", reason=str(error))
    except BaseException as error:  # SystemExit among them
        at = next(filter(None, (line_of(error, name) for name in task.subject.cells.plugin)), "")
        return Counted(problem="failure", reason=first_line(error) + at)


def _look(subject: Subject) -> None:
    from ...methods import format_spec, load_plugins, parse

    load_plugins(subject.cells.plugin)
    methods = [parse(spec, subject.cells.keep) for spec in subject.cells.methods]
    shape, workload = known_shapes().get(subject.model.name or ""), subject.workload
    if shape is None:  # a checkpoint is not read for it
        return
    planned, sizes = by_size(shape, workload), request_sizes(workload)
    for method in methods:
        try:
            plan_for(method, resized_for(method, sizes, planned)[1])
        except InputError as error:
            raise type(error)(f"{format_spec(method)}: {error}") from error


def _count(subject: Subject, folder: Path) -> Snapshot:
    """One request of each cell is counted, some more must do the same, and the last ones are
    counted by torch. Plug-ins come first: torch takes seconds to load, and one that fails none."""
    from ...methods import load_plugins

    whole = rooted(subject, folder)
    load_plugins(whole.cells.plugin)
    from ..run.bench import Bench
    from ..run.comparison import Comparison

    comparison = Comparison(RunSpec(model=whole.model, workload=whole.workload, cells=whole.cells))
    with Bench(comparison.device) as bench:
        for cell in comparison.cells:
            bench.warm_up(cell)
            for _ in range(AGAIN):
                bench.repeat(cell)
        for cell in comparison.cells:
            if cell.alive:
                bench.flops(cell)
                bench.activity(cell)
            cell.close()
    counted = Snapshot.of(reading(comparison.record))
    # With paths as the file names them.
    counted.workload = msgspec.json.decode(msgspec.json.encode(subject.workload))
    return counted
