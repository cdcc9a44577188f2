"""The timing gate: base against head, in the same job, and what calibrates it."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ...methods.contract.errors import InputError
from ...reports.gate.baseline import Snapshot
from ...reports.gate.config import load_config
from ...reports.gate.counts import compare_counts, uncounted
from ...reports.gate.journal import SCHEMA, GateBegun, Judgement, Ran
from ...reports.gate.rules import ON_CPU, ON_GPU, Rules, check_power, check_rules
from ...reports.gate.timing import decide
from ...reports.gate.tolerant_record import TolerantRecord
from ...reports.gate.verdicts import Gate, Judged, NoVerdictError, Verdict, accepted, nothing
from ...reports.record.journal import Journal
from ...reports.record.spec import Subject
from ..machine.environment import own_version
from ..run.rounds import Progress
from .arms import Arm, MissingError, arm
from .base_rules import base_config, changes, no_longer_measured
from .pairs import (
    HeadFailsError,
    Probe,
    Session,
    foreign,
    in_a_fresh_process,
    keys_of,
    readings,
    timed,
)
from .resumption import Earlier

SAME = "so nothing is compared (--allow-same takes it, as an A/A test, or where only data differs)"


@dataclass(frozen=True)
class GateOptions:
    """What a timing gate is asked: both arms as the user names them, what they run, and the rules,
    with no tolerances where those of the device are to hold. Paths of the subject are absolute.
    out: the journal. accept_counts: counts that changed are meant, and shown alone.
    accept_unjudged: what cannot be judged does not stand against a pass. allow_same: both may run
    the same code. resume: the journal may be of the same gate, which is gone on with. config: the
    gate.toml that the rules come from; adjusted: rules of such a file, with what the command line
    says."""

    base: str
    head: str
    subject: Subject
    rules: Rules
    out: Path
    accept_counts: bool = False
    accept_unjudged: bool = False
    allow_same: bool = False
    resume: bool = False
    config: Path | None = None
    adjusted: Callable[[Rules], Rules] = check_rules


def run_ab(options: GateOptions, tell: Progress, run: Probe = in_a_fresh_process) -> Gate:
    """Measure and judge. Whatever ends it, each process that ended is in the journal at `out`.

    Raises InputError for arms that do not exist, and for what cannot be measured at all.
    """
    gate = Gate("timing", f"{options.base} -> {options.head}")
    gate.accept_unjudged = options.accept_unjudged
    try:
        with ExitStack() as stack:
            session = _session(options, gate, stack, tell, run)
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


def _session(
    options: GateOptions, gate: Gate, stack: ExitStack, tell: Progress, run: Probe
) -> Session:
    subject = options.subject
    base, head = _arms(options, stack)
    if base.identity == head.identity and not options.allow_same:
        raise NoVerdictError(f"{base.label} and {head.label} are the same; {SAME}")
    rules = _rules(options, base, gate)
    check_power(rules, len(rules.metrics))
    first = begun((base.label, head.label), subject, rules)
    earlier = Earlier.of(options.out, first) if options.resume else Earlier()
    journal = Journal.begin(options.out, first, *earlier.processes)
    return Session(base, head, subject, rules, journal, run=run, tell=tell, earlier=earlier)


def _rules(options: GateOptions, base: Arm, gate: Gate) -> Rules:
    """The rules that judge; what the head changes of them, or no longer measures, is told."""
    theirs, note = base_config(options.config, base)
    gate.notes.append(note)
    if theirs is None or options.config is None:
        return options.rules
    ours = load_config(options.config)
    gate.notes.append(changes(theirs, ours))
    gate.rows += no_longer_measured(theirs, ours)
    return options.adjusted(theirs.rules)


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
    rules = session.rules = with_tolerances(session.rules, base)
    before, after = Snapshot.of(base), Snapshot.of(head)
    rows = compare_counts(before, after, rules.memory)
    gate.rows += accepted(rows, counts_only=True) if options.accept_counts else rows
    same = _sources(session, options)
    unlike = {row.cell for row in rows if row.verdict is Verdict.NO_VERDICT}
    cells = [
        cell
        for cell in timed(base, head, options.subject.cells.methods)
        if cell.title not in unlike and "all cells" not in unlike
    ]
    keys, unmeasured = keys_of(cells, rules.metrics)
    gate.rows += unmeasured
    gate.notes += [same, _how(rules, len(keys), base), uncounted(after)]
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
    code that is not its own, or both, though they are not meant to, the very same code."""
    arms, looks = session.arms, {ran.arm: ran for ran in session.processes}
    for letter, ran in looks.items():
        if ran.foreign:
            raise NoVerdictError(foreign(arms[letter].name, ran))
    _require_submodules(arms["A"], arms["B"], looks["B"])
    _require_submodules(arms["B"], arms["A"], looks["A"])
    alike = arms["A"].identity == arms["B"].identity
    if not alike and not same_code(looks["A"], looks["B"]):
        return ""
    if options.allow_same:
        return "base and head are the same: this compares a code with itself"
    files = {f for name, f in looks["B"].origins.items() if name.startswith("method ")}
    raise NoVerdictError(
        f"base and head run the very same code ({', '.join(sorted(files))}); {SAME}"
    )


def _require_submodules(side: Arm, other: Arm, ran: Ran) -> None:
    """Raises NoVerdictError where `other` ran what `side` has in a submodule that is not here, so
    that `side` ran something else."""
    for path in side.lacking:
        folder = Path(other.tree or os.devnull, path)
        if used := [file for file in ran.own if folder in Path(file).parents]:
            raise NoVerdictError(
                f"{side.name} has its submodule {path} not here, from which {other.name} imports "
                f"{used[0]}: check it out as it is there (git submodule update --init), or fetch "
                "its history"
            )


def same_code(base: Ran, head: Ran) -> bool:
    """Whether both ran the same files, or files of the same contents, by the same interpreter:
    nothing would be compared."""
    if base.contents and base.contents == head.contents:
        return True
    return bool(base.origins) and (base.origins, base.own) == (head.origins, head.own)


def _unwatched(session: Session) -> str:
    reasons = {ran.unwatched for ran in session.processes if ran.unwatched}
    if not reasons:
        return ""
    return f"throttling, clocks and other users of the GPU are n/a: {', '.join(sorted(reasons))}"


def begun(arms: tuple[str, str], subject: Subject, rules: Rules) -> GateBegun:
    """The first line of a journal, which says what is measured."""
    created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return GateBegun(
        schema=SCHEMA,
        tpprof=own_version(),
        created=created,
        base=arms[0],
        head=arms[1],
        subject=subject,
        rules=rules,
    )


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
