"""The exact gate: count here what the baseline counted, and hand both to the rule."""

from __future__ import annotations

from pathlib import Path

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
from ...reports.gate.verdicts import Gate, NoVerdictError, Verdict, accepted, nothing
from ...reports.record.spec import Subject, changed
from ...reports.record.spec_files import relative
from ..machine.environment import own_version
from ..models.errors import ModelError
from .base_rules import baseline_changes
from .counting import count_cells


def check_baseline(path: Path, *, accept_unjudged: bool = False, since: str = "") -> Gate:
    """The exact gate against the baseline at `path`; no verdict where it cannot be judged.
    accept_unjudged: what cannot be judged does not stand against a pass. since: a commit; how the
    baseline differs from the one that it holds is told."""
    label = f"against {path}"
    changed_since = baseline_changes(path, since)
    try:
        baseline = load_baseline(path)
        if not baseline.subject.cells.named:
            raise NoVerdictError(f"{path} names no method: there is nothing to judge")
        found = _count_again(baseline, path.parent)
    except NoVerdictError as error:
        return nothing("exact", label, str(error))
    gate = _gate(baseline, found, label)
    gate.accept_unjudged = accept_unjudged
    gate.notes += [changed_since] if changed_since else []
    return gate


def update_baseline(
    path: Path, subject: Subject | None, memory: float | None = None, *, overwrite: bool = False
) -> Gate:
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
    try:
        counted = count_cells(subject, path.parent)
    except NoVerdictError as error:
        raise InputError(f"no baseline is made: {error}") from error
    failed = [f"{c.cell}: {c.error or 'operators not counted'}" for c in counted.cells if _fails(c)]
    if failed:
        raise InputError(f"no baseline is made of cells that fail: {'; '.join(failed)}")
    subject = changed(subject, device=counted.device)
    if subject.model.name is not None:
        subject = changed(subject, dtype=counted.dtype)
    if memory is None:
        memory = before.memory if before else MEMORY
    baseline = Baseline(
        schema=SCHEMA,
        tpprof=own_version(),
        subject=subject,
        memory=memory,
        snapshot=counted,
    )
    save_baseline(baseline, path, overwrite=overwrite)
    gate = _gate(before or baseline, counted, f"accepted in {path}")
    _accept(gate, baseline)
    if before is None:
        gate.notes.append("a new baseline: there was none to compare with")
    return gate


def _accept(gate: Gate, baseline: Baseline) -> None:
    """Accept what the baseline holds now, and say what it does not hold, which no check can judge
    even where nothing changes."""
    same = compare_counts(baseline.snapshot, baseline.snapshot, baseline.memory, complete=True)
    lasting = {(r.cell, r.metric): r for r in same if r.verdict is Verdict.NOT_JUDGED}
    gate.rows = [lasting.get((row.cell, row.metric), row) for row in accepted(gate.rows)]
    gate.accept_unjudged = True
    if lasting:
        told = ", ".join(f"{r.metric} of {r.cell} ({r.rule})" for r in lasting.values())
        gate.notes.append(
            f"this baseline cannot judge {told}: each check will end with 4, unless "
            "--accept-unjudged is given or the cell is left out"
        )


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
        uncounted(after),
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
