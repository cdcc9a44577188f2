"""The timing gate's processes: one after another in ABBA blocks, each one fresh."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...methods.contract.errors import InputError
from ...reports import units
from ...reports.gate.abba import Block, blocks
from ...reports.gate.journal import Ran, disturbance, observe
from ...reports.gate.rules import METRICS, Rules
from ...reports.gate.timing import Batch, Key, Series
from ...reports.gate.tolerant_record import ReadCell, TolerantRecord, decoded
from ...reports.gate.verdicts import Judged, NoVerdictError, Verdict
from ...reports.record.journal import Journal
from ...reports.record.spec import Subject, options_of, value_of
from ..run.rounds import Progress
from ..subprocesses import SILENT, ask, python
from . import probe
from .arms import Arm, callables_in
from .resumption import Earlier

OUTSIDE = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")
"""Signals that somebody else sends. Any other one is the process's own crash."""

Probe = Callable[[Arm, dict[str, Any]], tuple[int, str, bytes]]
"""Runs a task of `probe` in an arm: exit code, "" or what failed, and the record."""


def in_a_fresh_process(arm: Arm, task: dict[str, Any]) -> tuple[int, str, bytes]:
    """See `Probe`. Raises InputError where the arm's Python cannot be started."""
    program = Path(probe.__file__).read_text(encoding="utf-8")
    command = python(f"exec(compile({program!r}, 'probe', 'exec'))", arm.python)
    own = {name: v for name, v in os.environ.items() if name != "PYTHONPATH" or not arm.alone}
    try:
        return ask(command, task, own)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{arm.name}: {arm.python} cannot be started ({reason})") from error


class Session:
    """Measures pairs of processes as `timing.decide` asks for them. The paths of `subject` are
    absolute. earlier: what need not be measured again."""

    def __init__(
        self,
        base: Arm,
        head: Arm,
        subject: Subject,
        rules: Rules,
        journal: Journal,
        *,
        run: Probe = in_a_fresh_process,
        tell: Progress = lambda label, done, total: None,
        earlier: Earlier | None = None,
    ) -> None:
        self.arms = {"A": base, "B": head}
        self.subject, self.rules = subject, rules
        self.run, self.tell, self.journal = run, tell, journal
        self.earlier = earlier or Earlier()
        self.methods: dict[str, str] = {}  # of each cell
        self.processes: list[Ran] = []
        self._block = 0

    def scout(self, letter: str) -> tuple[Ran, TolerantRecord | None]:
        """One process with one request, to see what there is: its counts, and whether it runs. One
        that fails gets a second try."""
        arm = self.arms[letter]
        for attempt in range(2):
            self.tell(f"a look at {arm.name}", attempt, 2)
            blank = Ran(block=-1, turn=0, arm=letter)
            ran, record = self._process(letter, self.subject.cells.methods, 1, blank, passes=True)
            if record is not None:
                self.earlier.require_same(ran, arm.name)
                engine = [cell for cell in record.cells if not cell.is_callable]
                self.methods |= {cell.title: cell.method for cell in engine}
                if not ran.errors:
                    break
            if ran.killed or ran.unknown:
                break
        return ran, record

    def __call__(self, pairs: int, keys: Sequence[Key]) -> Batch:
        """So many pairs; where a process is killed or fails twice, what was measured until then."""
        batch = Batch({key: Series() for key in keys})
        wanted = [self.methods[cell] for cell, _ in keys if cell in self.methods]
        methods = list(dict.fromkeys(wanted))  # callables always run: they are named with the rest
        first = self._block
        for block in blocks(pairs, first):
            ran, self._block = list[Ran](), block.number + 1
            known = self.earlier.block(block.number)
            self.processes += known
            for turn, letter in enumerate(block.order):
                done = (block.number - first) * 4 + turn
                self.tell(f"{self.arms[letter].name}, process {done + 1}", done, 2 * pairs)
                ran.append(known[turn] if known else self._measured(letter, methods, block, turn))
                broken = self._broken(ran[-1], keys)
                batch.stopped, batch.broken = broken.stopped, {**broken.broken, **batch.broken}
                if batch.stopped or all(cell in batch.broken for cell, _ in keys):
                    return batch
            for cell, metric in keys:
                times = [process.median(cell, metric) for process in ran]
                series = Series(block.pairs(times), block.controls(times))
                batch.series[cell, metric].add(series)
        timed = [ran for ran in self.processes if ran.block >= 0]
        batch.stopped = disturbance(timed, self.rules.clock)
        return batch

    def _measured(self, letter: str, methods: Sequence[str], block: Block, turn: int) -> Ran:
        """A process of a block; one that fails by itself gets a second try."""
        for _ in range(2):
            blank = Ran(block=block.number, turn=turn, arm=letter)
            ran, _ = self._process(letter, methods, self.rules.requests, blank)
            if not (ran.failure or ran.errors) or ran.killed or ran.unknown:
                break
        return ran

    def _process(
        self, letter: str, methods: Sequence[str], requests: int, ran: Ran, *, passes: bool = False
    ) -> tuple[Ran, TolerantRecord | None]:
        """passes: whether energy and what torch counts are wanted too, which takes time."""
        arm, subject = self.arms[letter], self.subject
        task: dict[str, Any] = {
            "root": arm.root,
            "paths": arm.paths,
            "tree": arm.tree,
            "tops": arm.tops,
            "plugins": arm.plugins,
            "methods": list(methods),
            "requests": requests,
            "passes": passes,
            "options": {
                keyword: value_of(subject, keyword)
                for keyword in options_of(Subject)
                if keyword not in ("methods", "plugin", "callable", "python")
            },
        }
        if subject.cells.callables:  # an earlier tpprof knows no such option
            task["options"]["callable"] = callables_in(arm, subject.cells.callables)
            task["options"]["python"] = subject.cells.python
        code, ran.failure, content = self.run(arm, task)
        outside = any(signal in ran.failure for signal in OUTSIDE) and code < 0
        ran.killed = outside or code == SILENT
        ran.unknown = code == probe.UNKNOWN
        record = None
        if code == 0:
            record = decoded(content)
            observe(ran, record, list(METRICS))
        self.processes.append(ran)
        self.journal.append(ran)
        return ran, record

    def _broken(self, ran: Ran, keys: Sequence[Key]) -> Batch:
        """What a process that did not measure everything means."""
        arm, cells = self.arms[ran.arm].name, {cell for cell, _ in keys}
        if ran.killed:
            return Batch(stopped=f"{arm} did not come to its end: {ran.failure}")
        if ran.foreign:
            return Batch(stopped=foreign(arm, ran))
        if ran.failure:
            verdict = Verdict.FAIL if ran.arm == "B" and not ran.unknown else Verdict.NO_VERDICT
            return Batch(broken=dict.fromkeys(cells, (verdict, f"{arm} fails: {ran.failure}")))
        verdict = Verdict.FAIL if ran.arm == "B" else Verdict.NO_VERDICT
        broken = {
            cell: (verdict, f"{arm} fails: {ran.errors[cell]}")
            for cell in cells
            if cell in ran.errors
        }
        return Batch(broken=broken) if broken else self._lacking(ran, keys)

    def _lacking(self, ran: Ran, keys: Sequence[Key]) -> Batch:
        arm, broken = self.arms[ran.arm].name, {}
        for cell, metric in keys:
            if ran.median(cell, metric) is None:
                broken[cell] = (Verdict.NO_VERDICT, f"{arm} did not measure its {metric}")
        return Batch(broken=broken)


def foreign(arm: str, ran: Ran) -> str:
    """What a process ran that is not of its own side, and the way out."""
    return (
        f"{arm} imports what its own tree holds, or another one of the project, from elsewhere: "
        f"{', '.join(ran.foreign[:3])}; let its folder be searched in either tree (PYTHONPATH, an "
        "editable install), or give environments that each have their own"
    )


def timed(base: TolerantRecord, head: TolerantRecord, named: Sequence[str]) -> list[ReadCell]:
    """The cells to time: those of the methods that were named, where both sides have them; vanilla
    is always measured, and judged only if it is named."""
    wanted = [spec for spec in named if spec.partition(":")[0] == "vanilla"]
    theirs = {cell.title for cell in head.cells if not cell.error}
    return [
        cell
        for cell in base.cells
        if not cell.error and cell.title in theirs and (cell.name != "vanilla" or wanted)
    ]


def keys_of(cells: Sequence[ReadCell], metrics: Sequence[str]) -> tuple[list[Key], list[Judged]]:
    """What is judged of these cells, and a row without a verdict for what cannot be."""
    keys: list[Key] = []
    rows = []
    for cell in cells:
        for metric in metrics:
            if any(cell.seconds(metric, sample) for sample in cell.samples):
                keys.append((cell.title, metric))
                continue
            known = ", ".join(m for m in metrics if m != metric)
            content = f"the request has no {metric} to be timed; leave it out: --metric {known}"
            values = units.NA, units.NA, units.NA
            rows.append(Judged(cell.title, metric, Verdict.NO_VERDICT, *values, content))
    return keys, rows


def readings(session: Session) -> tuple[TolerantRecord, TolerantRecord]:
    """A look at both sides. Raises NoVerdictError where one of them cannot be judged at all, and
    HeadFailsError where only the head does not run; InputError for what neither side knows."""
    ran, base = session.scout("A")
    if base is None:
        if ran.unknown and session.scout("B")[0].unknown:
            raise InputError(ran.failure)  # which neither side knows
        raise NoVerdictError(f"base does not run: {ran.failure}")
    ran, head = session.scout("B")
    if head is None and (ran.killed or ran.unknown):
        raise NoVerdictError(f"head cannot be measured: {ran.failure}")
    if head is None:
        raise HeadFailsError(ran.failure)
    return base, head


class HeadFailsError(Exception):
    """The head does not run and the base does, which is a regression; the message says how."""
