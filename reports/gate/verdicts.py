"""Verdicts: one for each cell and metric, one for the gate, and the exit code that follows."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class NoVerdictError(Exception):
    """Nothing can be judged; the message says why. It is never a pass."""


class Verdict(str, Enum):
    """What the gate says of a metric."""

    FAIL = "FAIL"
    NO_VERDICT = "NO VERDICT"
    INCONCLUSIVE = "INCONCLUSIVE"
    ACCEPTED = "accepted"
    IMPROVED = "IMPROVED"
    PASS = "PASS"
    NOT_JUDGED = "not judged"


CODES = {
    Verdict.FAIL: 1,
    Verdict.NO_VERDICT: 3,
    Verdict.INCONCLUSIVE: 4,
    Verdict.ACCEPTED: 0,
    Verdict.IMPROVED: 0,
    Verdict.PASS: 0,
}
"""Exit codes, the gravest verdict first. 2 is bad input."""


@dataclass(frozen=True)
class Judged:
    """One row of a gate. before, after, change: as people read them, `n/a` where unknown.

    rule: which rule gave the verdict, in words. values: the numbers behind it, in SI units.
    """

    cell: str
    metric: str
    verdict: Verdict
    before: str
    after: str
    change: str
    rule: str
    values: dict[str, Any] = field(default_factory=dict)


@dataclass
class Gate:
    """All that a gate found. kind: exact, timing or stored. subject: what was compared with what.
    notes: what a reader must know, among it why the whole gate has no verdict. accept_unjudged:
    what cannot be judged was accepted beforehand."""

    kind: str
    subject: str
    rows: list[Judged] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    accept_unjudged: bool = False

    @property
    def verdict(self) -> Verdict:
        """The gravest verdict of all rows. A gate that judged nothing has no verdict, and one that
        did not judge all of it leaves it open, unless that was accepted."""
        found = {row.verdict for row in self.rows}
        gravest = next((verdict for verdict in CODES if verdict in found), Verdict.NO_VERDICT)
        partial = Verdict.NOT_JUDGED in found and not self.accept_unjudged
        return Verdict.INCONCLUSIVE if partial and not CODES[gravest] else gravest

    @property
    def unjudged(self) -> list[str]:
        """What was not judged, metric by metric, each with its cells."""
        cells: dict[str, list[str]] = {}
        for row in self.rows:
            if row.verdict is Verdict.NOT_JUDGED:
                cells.setdefault(row.metric, []).append(row.cell)
        return [
            f"{metric} of {of[0] if len(of) == 1 else f'{len(of)} cells'}"
            for metric, of in cells.items()
        ]

    @property
    def code(self) -> int:
        """The exit code of the command."""
        return CODES[self.verdict]


def accepted(rows: list[Judged], *, counts_only: bool = False) -> list[Judged]:
    """The rows of a change that is meant: what it changes is accepted. counts_only: but for what
    cannot be compared, is not judged or does not run."""
    kept = {Verdict.PASS, *((Verdict.NO_VERDICT, Verdict.NOT_JUDGED) if counts_only else ())}
    return [
        row
        if row.verdict in kept or (counts_only and row.metric == "all")
        else dataclasses.replace(row, verdict=Verdict.ACCEPTED)
        for row in rows
    ]


def nothing(kind: str, subject: str, reason: str) -> Gate:
    """A gate that could not judge anything, and why."""
    row = Judged("-", "-", Verdict.NO_VERDICT, "n/a", "n/a", "n/a", reason)
    return Gate(kind, subject, [row])
