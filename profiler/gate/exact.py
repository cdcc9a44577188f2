"""The exact gate: count here what the baseline counted, and hand both to the rule."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from ...methods.contract.errors import InputError
from ...reports.gate.baseline import (
    SCHEMA,
    Baseline,
    Counts,
    Snapshot,
    load_baseline,
    save_baseline,
)
from ...reports.gate.counts import compare_counts, uncounted
from ...reports.gate.rules import MEMORY
from ...reports.gate.tolerant_record import reading
from ...reports.gate.verdicts import Gate, NoVerdictError, accepted, nothing
from ...reports.record.spec import RunSpec, Subject, changed
from ...reports.record.spec_files import relative, rooted
from ..machine.environment import own_version
from ..models.errors import ModelError


def check_baseline(path: Path) -> Gate:
    """The exact gate against the baseline at `path`; no verdict where it cannot be judged."""
    label = f"against {path}"
    try:
        baseline = load_baseline(path)
        found = _count_again(baseline, path.parent)
    except NoVerdictError as error:
        return nothing("exact", label, str(error))
    return _gate(baseline, found, label)


def update_baseline(path: Path, subject: Subject | None, memory: float | None = None) -> Gate:
    """Count anew and write the baseline: of `subject`, or of what the baseline held so far.

    Returns what changes by it, which is accepted; no verdict where there is neither. Raises
    InputError for cells that do not exist or fail.
    """
    before, reason = earlier_baseline(path)
    if subject is not None:
        subject = relative(subject, path.parent)
    elif before is not None:
        subject = before.subject
    else:
        return nothing("exact", f"against {path}", reason)
    counted = count_cells(subject, path.parent)
    failed = [f"{c.cell}: {c.error or 'operators not counted'}" for c in counted.cells if _fails(c)]
    if failed:
        raise InputError(f"no baseline is made of cells that fail: {'; '.join(failed)}")
    subject = changed(subject, device=counted.device, dtype=counted.dtype)
    if memory is None:
        memory = before.memory if before else MEMORY
    baseline = Baseline(
        schema=SCHEMA,
        tpprof=own_version(),
        subject=subject,
        memory=memory,
        snapshot=counted,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_baseline(baseline, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error})") from error
    gate = _gate(before or baseline, counted, f"accepted in {path}")
    gate.rows = accepted(gate.rows)
    if before is None:
        gate.notes.append("a new baseline: there was none to compare with")
    return gate


def count_cells(subject: Subject, folder: Path) -> Snapshot:
    """The counts of all cells, from one request of each and one under torch's profiler."""
    from ..run.bench import Bench
    from ..run.comparison import Comparison

    whole = rooted(subject, folder)
    comparison = Comparison(RunSpec(model=whole.model, workload=whole.workload, cells=whole.cells))
    with Bench(comparison.model, comparison.prepare) as bench:
        for number, cell in enumerate(comparison.cells, 1):
            label = f"counting {number} of {len(comparison.cells)}: {cell.saved.method}"
            print(label, file=sys.stderr)
            bench.warm_up(cell)
        for cell in comparison.cells:
            if cell.alive:
                bench.flops(cell)
                bench.activity(cell)
    counted = Snapshot.of(reading(comparison.record))
    # With paths as the file names them.
    counted.workload = msgspec.json.decode(msgspec.json.encode(subject.workload))
    return counted


def _count_again(baseline: Baseline, folder: Path) -> Snapshot:
    """Raises NoVerdictError where this machine or this version cannot do what the baseline did."""
    try:
        return count_cells(baseline.subject, folder)
    except ModelError as error:
        raise NoVerdictError(f"cannot be counted on this machine: {error}") from error
    except InputError as error:
        raise NoVerdictError(f"a cell of the baseline is missing here: {error}") from error


def _gate(before: Baseline, after: Snapshot, subject: str) -> Gate:
    rows = compare_counts(before.snapshot, after, before.memory, complete=True)
    versions = ", ".join(f"{name} {version}" for name, version in after.packages.items())
    notes = [
        f"{after.model} counted on {after.device} in {after.dtype} with {versions}",
        uncounted(before.snapshot, after),
    ]
    notes = [note for note in notes if note]
    return Gate("exact", subject, rows, notes)


def _fails(counts: Counts) -> bool:
    return bool(counts.error) or counts.operators is None


def earlier_baseline(path: Path) -> tuple[Baseline | None, str]:
    """The baseline that is there, or why there is none."""
    try:
        return load_baseline(path), ""
    except NoVerdictError as error:
        return None, str(error)
