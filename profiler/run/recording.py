"""A comparison whose journal lies beside its record: nothing that was measured is lost."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...methods import load_plugins, parse
from ...methods.contract.errors import InputError
from ...reports.outputs import OutputError
from ...reports.record import files
from ...reports.record.base import RecordError
from ...reports.record.compatibility import differences
from ...reports.record.journal import Journal, in_use, is_empty
from ...reports.record.labels import name
from ...reports.record.schema import Record
from ...reports.record.spec import RunSpec
from ...reports.sanitize import say
from ..accuracy.beside import ask, require_same_checkpoint
from ..subprocesses import UNWRITABLE
from ..tensor_parallel.launch import RanksEnded, RankTask, on_ranks, require_alone
from . import isolated
from .interrupts import Terminated, terminable
from .rounds import Progress

if TYPE_CHECKING:
    from ..tensor_parallel.lockstep import Lockstep
    from .comparison import Comparison


@dataclass(frozen=True)
class Outcome:
    """A run's record, where it was saved, and the exit code of the command."""

    record: Record
    path: Path
    code: int


def measure(
    spec: RunSpec,
    out: Path,
    tell: Progress,
    *,
    command: str = "",
    resume: bool = False,
    trace: Path | None = None,
    overwrite: bool = False,
    lockstep: Lockstep | None = None,
    begun: Callable[[Path], None] = lambda path: None,
) -> Outcome:
    """Run it. Every sample is in the journal beside the record as soon as it is taken; the
    record takes the journal's place when the run ends, by itself, by Ctrl-C or by SIGTERM.

    trace: where the Chrome trace of one request goes; not with isolated cells. overwrite: whether
    a finished file that tpprof did not make is replaced. lockstep: this process as the first of the
    ranks of a model; without it, they are started here. begun: told where the record will be.
    Exit codes: 0, 1 if a cell failed, 130 for Ctrl-C, 143 for SIGTERM. Raises InputError, and
    OutputError where the disk is full; what was measured until then is in the journal.
    """
    if spec.model.tensor_parallel > 1 and lockstep is None:
        given = None if trace is None else str(trace)
        task = RankTask(spec, str(out), command, resume, given, overwrite)
        return _measured_on_ranks(task, tell)
    if out.suffix == ".json":
        _require_free(out, overwrite=overwrite, resume=resume)
    alone = spec.stopping.isolate  # then this process loads neither torch nor the model
    comparison = None if alone else _begun(spec, command, lockstep)
    record = comparison.record if comparison else isolated.empty_record(spec, command)
    journal, record, path = _started(record, out, resume=resume, overwrite=overwrite)
    say(f"measuring {record.model.name}: {record.model.reason}")
    begun(path)
    code, traced = 0, False
    try:
        with terminable():
            if comparison is None:
                isolated.run(journal, record, tell)
            else:
                traced = _compare(comparison, journal, record, trace, tell)
                comparison = None  # the process that asks loads the model itself
            if record.spec.accuracy.accuracy:
                ask(journal, tell)
    except KeyboardInterrupt as stopped:
        code = 143 if isinstance(stopped, Terminated) else 130
    outcome = _ended(journal, path, code, overwrite=overwrite)
    if trace is not None and not traced:
        say(f"no trace: nothing was left to measure, or it failed ({outcome.path})")
    return outcome


def _started(
    record: Record, out: Path, *, resume: bool, overwrite: bool
) -> tuple[Journal, Record, Path]:
    """A journal, the record that it starts from, this one or an earlier one, and where that goes
    in the end."""
    path, earlier = _path(record, out), None
    if resume:
        path, earlier = _earlier(record, path, out)
    return _journal(path, record, earlier, overwrite=overwrite), earlier or record, path


def _compare(
    comparison: Comparison, journal: Journal, record: Record, trace: Path | None, tell: Progress
) -> bool:
    """Measure what the record lacks; whether the trace of one request was written."""
    comparison.journal, comparison.trace = journal, trace
    comparison.adopt(record)
    comparison.run(tell)
    return comparison.traced


def _ended(journal: Journal, path: Path, code: int, *, overwrite: bool) -> Outcome:
    """What a run came to; its record takes the journal's place, unless another run's lies there.
    code: of the signal that ended it, or 0."""
    record = files.load_run(path)
    if not files.finish(journal, record, path, overwrite=overwrite):
        say(f"{path} holds a run that ended, and stays; what was measured now is in {journal.path}")
        path = journal.path
    failed = any(cell.error for cell in record.cells) or any(
        row.error for row in (record.accuracy.answers if record.accuracy else ())
    )
    return Outcome(record, path, code or int(failed))


def _measured_on_ranks(task: RankTask, tell: Progress) -> Outcome:
    """The same by processes of their own. Where one of them dies, the cell that was being measured
    ends with the reason, and --resume goes on. Raises as `measure`."""
    require_alone(task.spec)
    ended = on_ranks(task, tell)
    if ended.path is None:
        raise InputError(ended.lost or "its processes ended before anything was measured")
    if ended.code == UNWRITABLE:
        raise OutputError(ended.lost)
    record = files.load_run(ended.path)
    if ended.code is not None:
        return Outcome(record, ended.path, ended.code)
    journal = Journal.begin(files.journal_of(ended.path), files.Begun(record=record))
    _end_cell(journal, record, ended)
    journal.close()
    say(f"{ended.lost}; --resume goes on")
    return Outcome(record, ended.path, 1)


def _end_cell(journal: Journal, record: Record, ended: RanksEnded) -> None:
    """Say of the cell that was measured last, by the label of that step, why it ended."""
    named = [cell for cell in record.cells if name(cell) in ended.label]
    for cell in sorted(named, key=lambda cell: len(name(cell)))[-1:]:
        cell.error = cell.error or ended.lost
        journal.append(files.Known.of(record.cells.index(cell), cell))
    for index, process in enumerate(record.processes):
        if process.seconds is None:
            process.outcome = ended.lost
            journal.append(files.Joined(index=index, process=process))


def _begun(spec: RunSpec, command: str, lockstep: Lockstep | None) -> Comparison:
    """A comparison in this process, ready to measure; what a user should know is said."""
    for note in load_plugins(spec.cells.plugin):  # at once: torch takes seconds to load
        say(note)
    for method in spec.cells.methods:
        parse(method, spec.cells.keep)
    from .comparison import Comparison

    if lockstep is None:
        comparison = Comparison(spec, command=command)
    else:
        with lockstep.made_together():
            comparison = Comparison(spec, command=command, lockstep=lockstep)
    for note in comparison.notes:
        say(note)
    comparison.calibrate()
    return comparison


def _path(record: Record, out: Path) -> Path:
    """Where the record goes: in a folder, under a name that is free."""
    stamp = "".join(c for c in record.created[:19] if c.isdigit() or c == "T").replace("T", "-")
    model = re.sub(r"[^\w.-]+", "_", record.model.name)
    if out.suffix == ".json":
        return out
    stem = f"{stamp}-{model}"[:200]
    tried = (out / f"{stem}{number}.json" for number in ("", *(f"-{n}" for n in range(2, 1000))))
    return next(p for p in tried if not p.exists() and not files.journal_of(p).exists())


def _earlier(record: Record, path: Path, out: Path) -> tuple[Path, Record | None]:
    """The run to go on with: the file itself, or the newest one in the folder that fits.

    Raises InputError where there are runs to go on with, but none of this configuration, or of a
    checkpoint that has changed behind its answers.
    """
    refused = ""
    for candidate in [path] if out.suffix == ".json" else _unfinished(out):
        if not candidate.exists() and not files.journal_of(candidate).exists():
            continue
        earlier = files.load_run(candidate)
        differs = differences(earlier, record, ("the earlier run", "this one"))
        if not differs:
            require_same_checkpoint(earlier)
            return candidate, earlier
        refused = refused or f"{candidate}: {'; '.join(differs)}"
    if refused:
        raise InputError(f"--resume goes on with the same configuration only. {refused}")
    say("nothing to resume: starting anew")
    return path, None


def _unfinished(folder: Path) -> list[Path]:
    """The records in `folder` whose run did not come to its end, newest first."""
    names = {path.with_suffix(".json") for path in folder.glob("*.json*")}
    found = []
    for path in sorted(names, reverse=True):
        try:
            if not files.load_run(path).complete:
                found.append(path)
        except RecordError as error:
            if files.journal_of(
                path
            ).exists():  # of a run that did not end, and is not gone on with
                say(f"! left alone: {error}")
    return found


def _journal(path: Path, record: Record, earlier: Record | None, *, overwrite: bool) -> Journal:
    """A journal that starts from what there is; raises InputError for one that would be lost."""
    _require_free(path, overwrite=overwrite, resume=earlier is not None)
    start = record if earlier is None else _continued(earlier, record)
    return Journal.begin(files.journal_of(path), files.Begun(record=start))


def _require_free(path: Path, *, overwrite: bool, resume: bool) -> None:
    """Raises InputError where another run writes to `path`, or, unless it is gone on with, where
    one lies there that did not end."""
    journal = files.journal_of(path)
    if not is_empty(journal) and in_use(journal):
        raise InputError(f"{journal} belongs to a run that still goes on; give another --out")
    if not resume and (kept := _kept(path, journal, overwrite=overwrite)):
        raise InputError(
            f"{kept} holds a run that did not end; continue it with --resume, or remove it"
        )


def _kept(path: Path, journal: Path, *, overwrite: bool) -> Path | None:
    """The file of a run that did not end, if there is one."""
    if not is_empty(journal):
        return journal
    if overwrite or not path.exists() or files.load_run(path).complete:
        return None
    return path


def _continued(earlier: Record, record: Record) -> Record:
    """The earlier record, to be gone on with for as long as the new run is asked to."""
    earlier.spec, earlier.complete = record.spec, False
    earlier.picture = earlier.picture or record.picture
    for process in earlier.processes:
        if process.seconds is None and not process.outcome:
            process.outcome = "did not come to its end"
    warnings = earlier.environment.warnings
    warnings += [line for line in record.environment.warnings if line not in warnings]
    return earlier
