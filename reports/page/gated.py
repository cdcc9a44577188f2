"""The section of a gate: its verdict, every change with the rule behind it, and the pairs."""

from __future__ import annotations

from collections.abc import Sequence

from ..figures import pairs
from ..gate import render
from ..gate.verdicts import Gate, Judged, Verdict
from .blocks import Field, Figure, Section, Table, number

TONES = {
    Verdict.FAIL: "bad",
    Verdict.NO_VERDICT: "warned",
    Verdict.INCONCLUSIVE: "warned",
    Verdict.ACCEPTED: "good",
    Verdict.IMPROVED: "good",
    Verdict.PASS: "good",
}
TITLES = {
    "exact": "Counts against the baseline",
    "timing": "Head against base, timed",
    "stored": "Head against base, two records",
}
HEADINGS = ["cell", "metric", "verdict", "by which rule", "before", "after", "change"]


def gated(gate: Gate) -> Section:
    """What the gate found: times, and what is not a plain pass; the rest is folded away."""
    loud = [row for row in gate.rows if row.verdict in render.LOUD or "log_ratio" in row.values]
    quiet = [row for row in gate.rows if row not in loud]
    chart = pairs.chart(gate)
    return Section(
        id="gate",
        title=TITLES[gate.kind],
        headline=render.headline(gate),
        tone=TONES[gate.verdict],
        figures=[Figure.of(chart, "all")] if chart else [],
        tables=[_table(loud)] if loud else [],
        folded=[_table(quiet, f"{len(quiet)} more rows without a finding")] if quiet else [],
        notes=gate.notes,
    )


def _table(rows: Sequence[Judged], caption: str = "") -> Table:
    return Table(HEADINGS, [_line(row) for row in rows], words=4, caption=caption, sortable=True)


def _line(row: Judged) -> list[Field]:
    words = [
        Field(row.cell),
        Field(row.metric),
        Field(row.verdict.value, tone=TONES.get(row.verdict, "")),
        Field(row.rule),
    ]
    return [*words, *(Field(text, number(text)) for text in (row.before, row.after, row.change))]
