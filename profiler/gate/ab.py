"""The timing gate: base against head, in the same job, and what calibrates it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
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
from .session import HeadFailsError, Session, in_a_fresh_process, keys_of, readings, timed
from .session import Probe as Probe


@dataclass(frozen=True)
class Asked:
    """What a timing gate is asked: both arms as the user names them, what they run, and the rules,
    with no tolerances where those of the device are to hold. Paths of the subject are absolute.
    out: the journal. accept_counts: counts that changed are meant, and shown alone."""

    base: str
    head: str
    subject: Subject
    rules: Rules
    out: Path
    accept_counts: bool = False


def ab(asked: Asked, tell: Progress, run: Probe = in_a_fresh_process) -> Gate:
    """Measure and judge. Whatever ends it, each process that ended is in the journal at `out`.

    Raises InputError for arms that do not exist, and for what cannot be measured at all.
    """
    gate = Gate("timing", f"{asked.base} -> {asked.head}")
    try:
        with ExitStack() as stack:
            session = _session(asked, stack, tell, run)
            gate.subject = " -> ".join(side.told for side in session.arms.values())
            stack.callback(session.journal.close)
            _judge(session, asked, gate)
            session.journal.append(Found(rows=gate.rows))
    except HeadFailsError as error:
        row = Judged("all cells", "all", Verdict.FAIL, "runs", "fails", "n/a", f"head: {error}")
        gate.rows.append(row)
    except NoVerdictError as error:
        gate.rows += nothing("timing", gate.subject, str(error)).rows
    gate.notes = [note for note in gate.notes if note]
    return gate


def _session(asked: Asked, stack: ExitStack, tell: Progress, run: Probe) -> Session:
    subject = asked.subject
    subjects.workload(subject)
    base = stack.enter_context(arm("base", asked.base, subject.plugins))
    head = stack.enter_context(arm("head", asked.head, subject.plugins))
    journal = begin(asked.out, (base.told, head.told), subject, asked.rules)
    return Session(base, head, subject, asked.rules, journal, run=run, tell=tell)


def _judge(session: Session, asked: Asked, gate: Gate) -> None:
    """Fill the gate: the counts of a look at both sides, then times."""
    base, head = readings(session)
    rules = session.rules = with_tolerances(asked.rules, base)
    before, after = Snapshot.of(base), Snapshot.of(head)
    rows = exact.compare(before, after, rules.memory)
    gate.rows = accepted(rows, counts_only=True) if asked.accept_counts else rows
    origins = {ran.arm: ran.origins for ran in session.processes}
    alike = same_code(origins["A"], origins["B"])
    if alike and asked.base != asked.head:
        raise NoVerdictError(f"base and head run the very same code: {alike}")
    unlike = {row.cell for row in rows if row.verdict is Verdict.NO_VERDICT}
    cells = [
        cell
        for cell in timed(base, head, asked.subject.methods)
        if cell.title not in unlike and "all cells" not in unlike
    ]
    keys, unmeasured = keys_of(cells, rules.metrics)
    gate.rows += unmeasured
    gate.notes += [_how(rules, len(keys), before), exact.uncounted(before, after)]
    if not keys:
        row = Judged("all cells", "times", Verdict.NO_VERDICT, "n/a", "n/a", "n/a", "none to time")
        gate.rows.append(row)
        return
    gate.rows += sequential.decide(session, keys, rules)
    gate.notes += [
        _unwatched(session), f"{len(session.processes)} processes; every request is in {asked.out}"
    ]  # fmt: skip


def same_code(base: Mapping[str, str], head: Mapping[str, str]) -> str:
    """What both sides ran, if it was the same files by the same interpreter: then nothing is
    compared with nothing. "" if something differs, or is not known."""
    if not base or base != head:
        return ""
    files = {file for name, file in base.items() if name.startswith("method ")}
    return ", ".join(sorted(files))


def _unwatched(session: Session) -> str:
    reasons = {ran.unwatched for ran in session.processes if ran.unwatched}
    if not reasons:
        return ""
    return f"throttling, clocks and other users of the GPU are n/a: {', '.join(sorted(reasons))}"


def begin(out: Path, arms: tuple[str, str], subject: Subject, rules: Rules) -> Journal:
    """A journal that says what is measured. Raises RecordError where it cannot be written."""
    created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    journal = Journal(out)
    journal.append(
        Begun(
            schema=SCHEMA, tpprof=version("tpprof"), created=created, base=arms[0], head=arms[1],
            subject=subject, rules=rules,
        )
    )  # fmt: skip
    return journal


def with_tolerances(rules: Rules, base: Reading) -> Rules:
    """The rules, with the tolerances of the device for the metrics that have none of their own."""
    on_gpu = base.environment.get("device_type") == "cuda"
    known = {**(rulebook.ON_GPU if on_gpu else rulebook.ON_CPU), **rules.tolerance}
    rules.tolerance = {metric: known[metric] for metric in rules.metrics}
    return rulebook.check(rules)


def _how(rules: Rules, family: int, before: Snapshot) -> str:
    tolerances = ", ".join(f"{metric} {share:.1%}" for metric, share in rules.tolerance.items())
    looks = ", ".join(map(str, rules.looks))
    return (
        f"on {before.device}; tolerances: {tolerances}; looks at {looks} pairs of processes, "
        f"median of {rules.requests} requests each; level {rules.alpha:g} for the family of "
        f"{family}, by Holm; a FAIL is confirmed by pairs of its own"
    )
