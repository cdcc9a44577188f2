"""The timing gate: base against head, in the same job, and what calibrates it."""

from __future__ import annotations

import datetime
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ...methods.contract.errors import InputError
from ...reports.gate.baseline import Snapshot
from ...reports.gate.counts import compare_counts, uncounted
from ...reports.gate.journal import SCHEMA, GateBegun, Judgement, Ran
from ...reports.gate.rules import ON_CPU, ON_GPU, Rules, check_power, check_rules
from ...reports.gate.timing import decide
from ...reports.gate.tolerant_record import TolerantRecord
from ...reports.gate.verdicts import Gate, Judged, NoVerdictError, Verdict, accepted, nothing
from ...reports.record.base import RecordError
from ...reports.record.journal import Journal
from ...reports.record.spec import Subject
from ..machine.environment import own_version
from ..run.rounds import Progress
from .arms import Arm, MissingError, arm
from .pairs import HeadFailsError, Probe, Session, in_a_fresh_process, keys_of, readings, timed


@dataclass(frozen=True)
class GateOptions:
    """What a timing gate is asked: both arms as the user names them, what they run, and the rules,
    with no tolerances where those of the device are to hold. Paths of the subject are absolute.
    out: the journal. accept_counts: counts that changed are meant, and shown alone."""

    base: str
    head: str
    subject: Subject
    rules: Rules
    out: Path
    accept_counts: bool = False


def run_ab(options: GateOptions, tell: Progress, run: Probe = in_a_fresh_process) -> Gate:
    """Measure and judge. Whatever ends it, each process that ended is in the journal at `out`.

    Raises InputError for arms that do not exist, and for what cannot be measured at all.
    """
    gate = Gate("timing", f"{options.base} -> {options.head}")
    try:
        with ExitStack() as stack:
            session = _session(options, stack, tell, run)
            stack.callback(session.journal.close)
            gate.subject = " -> ".join(side.label for side in session.arms.values())
            try:
                _judge(session, options, gate)
            except NoVerdictError as error:
                gate.rows += nothing("timing", gate.subject, str(error)).rows
            session.journal.append(Judgement(rows=gate.rows, rules=session.rules))
    except NoVerdictError as error:  # before anything was measured
        gate.rows += nothing("timing", gate.subject, str(error)).rows
    gate.notes = [note for note in gate.notes if note]
    return gate


def _session(options: GateOptions, stack: ExitStack, tell: Progress, run: Probe) -> Session:
    subject = options.subject
    check_power(options.rules, len(options.rules.metrics))
    base, head = _arms(options, stack)
    journal = begin(options.out, (base.label, head.label), subject, options.rules)
    return Session(base, head, subject, options.rules, journal, run=run, tell=tell)


def _arms(options: GateOptions, stack: ExitStack) -> tuple[Arm, Arm]:
    """Both sides; what neither has is bad input."""
    found, missing = [], []
    for name, text in (("base", options.base), ("head", options.head)):
        try:
            found.append(stack.enter_context(arm(name, text, options.subject.cells.plugin)))
        except MissingError as error:
            missing.append(error)
    if len(missing) > 1:
        raise InputError(str(missing[1]))
    if missing:
        raise missing[0]
    base, head = found
    return base.apart(head), head.apart(base)


def _judge(session: Session, options: GateOptions, gate: Gate) -> None:
    """Fill the gate: the counts of a look at both sides, then times."""
    try:
        base, head = readings(session)
    except HeadFailsError as error:
        row = Judged("all cells", "all", Verdict.FAIL, "runs", "fails", "n/a", f"head: {error}")
        gate.rows.append(row)
        return
    rules = session.rules = with_tolerances(options.rules, base)
    before, after = Snapshot.of(base), Snapshot.of(head)
    rows = compare_counts(before, after, rules.memory)
    gate.rows = accepted(rows, counts_only=True) if options.accept_counts else rows
    same = _sources(session, options)
    unlike = {row.cell for row in rows if row.verdict is Verdict.NO_VERDICT}
    cells = [
        cell
        for cell in timed(base, head, options.subject.cells.methods)
        if cell.title not in unlike and "all cells" not in unlike
    ]
    keys, unmeasured = keys_of(cells, rules.metrics)
    gate.rows += unmeasured
    gate.notes += [same, _how(rules, len(keys), base), uncounted(before, after)]
    if not keys:
        row = Judged("all cells", "times", Verdict.NO_VERDICT, "n/a", "n/a", "n/a", "none to time")
        gate.rows.append(row)
        return
    gate.rows += decide(session, keys, rules)
    gate.notes += [
        _unwatched(session),
        f"{len(session.processes)} processes; every request is in {options.out}",
    ]


def _sources(session: Session, options: GateOptions) -> str:
    """A note where both sides are meant to be the same. Raises NoVerdictError where one of them ran
    code that is not its own, or both, though they are not meant to, the very same files."""
    arms, looks = session.arms, {ran.arm: ran for ran in session.processes}
    for letter, ran in looks.items():
        if ran.foreign:
            raise NoVerdictError(
                f"{arms[letter].name} imports from another tree of the project: "
                f"{', '.join(ran.foreign[:3])}; its own one must hold what it imports"
            )
    base, head = arms["A"], arms["B"]
    if options.base == options.head or (base.commit and base.commit == head.commit):
        return "base and head are the same: this compares a code with itself"
    if same_code(looks["A"], looks["B"]):
        files = {f for name, f in looks["A"].origins.items() if name.startswith("method ")}
        raise NoVerdictError(f"base and head run the very same code: {', '.join(sorted(files))}")
    return ""


def same_code(base: Ran, head: Ran) -> bool:
    """Whether both ran the same files by the same interpreter: nothing would be compared."""
    return bool(base.origins) and (base.origins, base.own) == (head.origins, head.own)


def _unwatched(session: Session) -> str:
    reasons = {ran.unwatched for ran in session.processes if ran.unwatched}
    if not reasons:
        return ""
    return f"throttling, clocks and other users of the GPU are n/a: {', '.join(sorted(reasons))}"


def begin(out: Path, arms: tuple[str, str], subject: Subject, rules: Rules) -> Journal:
    """A journal that says what is measured. Raises RecordError where it cannot be written."""
    created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    first = GateBegun(
        schema=SCHEMA,
        tpprof=own_version(),
        created=created,
        base=arms[0],
        head=arms[1],
        subject=subject,
        rules=rules,
    )
    try:
        return Journal.begin(out, first)
    except OSError as error:
        raise RecordError(f"{out} cannot be written ({error.strerror or error})") from error


def with_tolerances(rules: Rules, base: TolerantRecord) -> Rules:
    """The rules, with the tolerances of the device for the metrics that have none of their own."""
    on_gpu = base.environment.device_type == "cuda"
    known = {**(ON_GPU if on_gpu else ON_CPU), **rules.tolerance}
    tolerance = {metric: known[metric] for metric in rules.metrics}
    return check_rules(msgspec.structs.replace(rules, tolerance=tolerance))


def _how(rules: Rules, family: int, base: TolerantRecord) -> str:
    tolerances = ", ".join(f"{metric} {share:.1%}" for metric, share in rules.tolerance.items())
    looks = ", ".join(map(str, rules.looks))
    packages = ", ".join(f"{name} {version}" for name, version in base.packages.items())
    return (
        f"on {base.environment.device}, base under {packages}; tolerances: {tolerances}; "
        f"looks at {looks} pairs of processes, median of {rules.requests} timed requests each; "
        f"level {rules.alpha:g} for the family of {family}, by Holm; a FAIL is confirmed by pairs "
        "of its own; change: of the pairs, with one-sided bounds"
    )
