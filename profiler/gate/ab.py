"""The timing gate: base against head, in the same job, and what calibrates it."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from ...reports.gate import exact, sequential
from ...reports.gate import rules as rulebook
from ...reports.gate.journal import SCHEMA, Begun, Found, Journal
from ...reports.gate.reading import Reading
from ...reports.gate.rules import Rules
from ...reports.gate.snapshot import Snapshot, Subject
from ...reports.gate.verdicts import Gate, Judged, NoVerdictError, Verdict, accepted, nothing
from ..rounds import Progress
from . import subject as subjects
from .arms import arm
from .session import HeadFailsError, Session, in_a_fresh_process, keys_of, readings
from .session import Probe as Probe


@dataclass(frozen=True)
class Asked:
    """What a timing gate is asked: both arms as the user names them, what they run, and the rules,
    with no tolerances where those of the device are to hold. folder: where paths lead from.
    accept_counts: counts that changed are meant, and shown alone."""

    base: str
    head: str
    subject: Subject
    rules: Rules
    folder: Path
    out: Path
    metrics: Sequence[str] = rulebook.METRICS
    accept_counts: bool = False


def ab(asked: Asked, tell: Progress, run: Probe = in_a_fresh_process) -> Gate:
    """Measure and judge. Whatever ends it, each process that ended is in the journal at `out`.

    Raises InputError for arms that do not exist.
    """
    told = f"{asked.base} -> {asked.head}"
    try:
        with ExitStack() as stack:
            session = _session(asked, stack, tell, run)
            told = " -> ".join(side.told for side in session.arms.values())
            return _judged(session, asked, told)
    except HeadFailsError as error:
        row = Judged("all cells", "all", Verdict.FAIL, "runs", "fails", "n/a", f"head: {error}")
        return Gate("timing", told, [row])
    except NoVerdictError as error:
        return nothing("timing", told, str(error))


def _session(asked: Asked, stack: ExitStack, tell: Progress, run: Probe) -> Session:
    subject = subjects.rooted(asked.subject, asked.folder)
    base = stack.enter_context(arm("base", asked.base, subject.plugins))
    head = stack.enter_context(arm("head", asked.head, subject.plugins))
    return Session(base, head, subject, asked.rules, run=run, tell=tell)


def _judged(session: Session, asked: Asked, told: str) -> Gate:
    base, head = readings(session)
    rules = session.rules = with_tolerances(asked.rules, base, asked.metrics)
    before, after = Snapshot.of(base), Snapshot.of(head)
    rows = exact.compare(before, after, rules.memory)
    if asked.accept_counts:
        rows = accepted(rows, counts_only=True)
    unlike = {row.cell for row in rows if row.verdict is Verdict.NO_VERDICT}
    keys = keys_of(base, head, asked.subject.methods, rules.metrics)
    keys = [key for key in keys if key[0] not in unlike and "all cells" not in unlike]
    notes = [_how(rules, len(keys), before), exact.uncounted(before, after)]
    gate = Gate("timing", told, rows, [note for note in notes if note])
    if not keys:
        row = Judged("all cells", "times", Verdict.NO_VERDICT, "n/a", "n/a", "n/a", "none to time")
        gate.rows.append(row)
        return gate
    journal = session.journal = begin(session, asked.out)
    try:
        gate.rows += sequential.decide(session, keys, rules)
        journal.append(Found(rows=gate.rows))
    except NoVerdictError as error:
        gate.rows += nothing("timing", told, str(error)).rows
    finally:
        journal.close()
    gate.notes.append(f"{len(session.processes)} processes; every request is in {asked.out}")
    return gate


def begin(session: Session, out: Path) -> Journal:
    """A journal that says what is measured, and holds what was until now."""
    created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    base, head = (side.told for side in session.arms.values())
    journal = Journal(out)
    journal.append(
        Begun(
            schema=SCHEMA, tpprof=version("tpprof"), created=created, base=base, head=head,
            subject=session.subject, rules=session.rules,
        )
    )  # fmt: skip
    for ran in session.processes:
        journal.append(ran)
    return journal


def with_tolerances(rules: Rules, base: Reading, metrics: Sequence[str]) -> Rules:
    """The rules, with the tolerances of the device for the metrics that have none of their own."""
    on_gpu = base.environment.get("device_type") == "cuda"
    known = {**(rulebook.ON_GPU if on_gpu else rulebook.ON_CPU), **rules.tolerance}
    rules.tolerance = {metric: known[metric] for metric in metrics}
    return rulebook.check(rules)


def _how(rules: Rules, family: int, before: Snapshot) -> str:
    tolerances = ", ".join(f"{metric} {share:.1%}" for metric, share in rules.tolerance.items())
    looks = ", ".join(map(str, rules.looks))
    return (
        f"on {before.device}; tolerances: {tolerances}; looks at {looks} pairs of processes, "
        f"median of {rules.requests} requests each; level {rules.alpha:g} for the family of "
        f"{family}, by Holm; a FAIL is confirmed by pairs of its own"
    )
