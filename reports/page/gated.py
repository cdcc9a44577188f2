"""The section of a gate: its verdict, every change with the rule behind it, and the pairs."""

from __future__ import annotations

from collections.abc import Sequence

from ..figures import pairs
from ..gate import render
from ..gate.verdicts import Gate, Judged
from .blocks import Figure, Section, TableBlock

TITLES = {
    "exact": "Counts against the baseline",
    "timing": "Head against base, timed",
    "stored": "Head against base, two records",
}


def gated(gate: Gate) -> Section:
    """What the gate found: times, and what is not a plain pass; the rest is folded away."""
    loud = [row for row in gate.rows if row.verdict in render.LOUD or "log_ratio" in row.values]
    quiet = [row for row in gate.rows if row not in loud]
    chart = pairs.chart(gate)

    def block(rows: Sequence[Judged], caption: str = "") -> TableBlock:
        return TableBlock.of(render.gate_table(gate, rows), caption, sortable=True)

    return Section(
        id="gate",
        title=TITLES[gate.kind],
        headline=render.headline(gate),
        tone=render.TONES[gate.verdict],
        figures=[Figure.of(chart, "all")] if chart else [],
        tables=[block(loud)] if loud else [],
        folded=[block(quiet, f"{len(quiet)} more rows without a finding")] if quiet else [],
        notes=gate.notes,
    )
