"""A comparison whose journal lies beside its record: nothing that was measured is lost."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from ...methods.contract.errors import InputError
from ...reports.record import files
from ...reports.record.base import RecordError
from ...reports.record.compatibility import differences
from ...reports.record.journal import Journal, in_use
from ...reports.record.schema import Record
from ...reports.record.spec import RunSpec
from . import isolated
from .interrupts import Terminated, terminable
from .rounds import Progress


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
) -> Outcome:
    """Run it. Every sample is in the journal beside the record as soon as it is taken; the
    record takes the journal's place when the run ends, by itself, by Ctrl-C or by SIGTERM.

    trace: where the Chrome trace of one request goes; not with isolated cells.
    Exit codes: 0, 1 if a cell failed, 130 for Ctrl-C, 143 for SIGTERM. Raises InputError.
    """
    comparison = None
    if spec.stopping.isolate:  # this process loads neither torch nor the model
        record = isolated.empty_record(spec, command)
    else:
        from .comparison import Comparison

        comparison = Comparison(spec, command=command)
        comparison.calibrate()
        record = comparison.record
    path, earlier = _path(record, out), None
    if resume:
        path, earlier = _earlier(record, path, out)
    journal = _journal(path, record, earlier)
    record = earlier or record
    if trace is not None:  # what an earlier run left is not of this one
        trace.unlink(missing_ok=True)
    print(f"measuring {record.model.name}: {record.model.reason}", file=sys.stderr)
    code = 0
    try:
        with terminable():
            if comparison is None:
                isolated.run(journal, record, tell)
            else:
                comparison.journal, comparison.trace = journal, trace
                comparison.adopt(record)
                comparison.run(tell)
    except KeyboardInterrupt as stopped:
        code = 143 if isinstance(stopped, Terminated) else 130
    record = files.load(path)
    files.finish(journal, record, path)
    if trace is not None and not trace.exists():
        print(f"no trace: nothing was left to measure, or it failed ({path})", file=sys.stderr)
    failed = any(cell.error for cell in record.cells)
    return Outcome(record, path, code or int(failed))


def _path(record: Record, out: Path) -> Path:
    """Where the record goes; raises InputError before anything is measured if it cannot."""
    stamp = "".join(c for c in record.created[:19] if c.isdigit() or c == "T").replace("T", "-")
    name = record.model.name.replace("/", "_")
    path = out if out.suffix == ".json" else out / f"{stamp}-{name}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: {error.strerror}; give a folder or a .json file") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"--out {out} cannot be written; give a folder or a .json file")
    return path


def _earlier(record: Record, path: Path, out: Path) -> tuple[Path, Record | None]:
    """The run to go on with: the file itself, or the newest one in the folder that fits.

    Raises InputError where there are runs to go on with, but none of this configuration.
    """
    refused = ""
    for candidate in [path] if out.suffix == ".json" else _unfinished(out):
        if not candidate.exists() and not files.journal_of(candidate).exists():
            continue
        earlier = files.load(candidate)
        differs = differences(earlier, record, ("the earlier run", "this one"))
        if not differs:
            return candidate, earlier
        refused = refused or f"{candidate}: {'; '.join(differs)}"
    if refused:
        raise InputError(f"--resume goes on with the same configuration only. {refused}")
    print("nothing to resume: starting anew", file=sys.stderr)
    return path, None


def _unfinished(folder: Path) -> list[Path]:
    """The records in `folder` whose run did not come to its end, newest first."""
    names = {path.with_suffix(".json") for path in folder.glob("*.json*")}
    found = []
    for path in sorted(names, reverse=True):
        try:
            if not files.load(path).complete:
                found.append(path)
        except RecordError as error:
            if files.journal_of(
                path
            ).exists():  # of a run that did not end, and is not gone on with
                print(f"! left alone: {error}", file=sys.stderr)
    return found


def _journal(path: Path, record: Record, earlier: Record | None) -> Journal:
    """A journal that starts from what there is; raises InputError for one that would be lost."""
    journal_path = files.journal_of(path)
    start = record if earlier is None else _continued(earlier, record)
    if journal_path.exists() and in_use(journal_path):
        raise InputError(f"{journal_path} belongs to a run that still goes on; give another --out")
    unfinished = journal_path.exists() or (path.exists() and not files.load(path).complete)
    if earlier is None and unfinished:
        kept = journal_path if journal_path.exists() else path
        raise InputError(
            f"{kept} holds a run that did not end; continue it with --resume, or remove it"
        )
    try:
        return Journal.begin(journal_path, files.Begun(record=start))
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"--out {path} cannot be written: {reason}; give another one") from error


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
