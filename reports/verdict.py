"""The one thing that matters in a run, in a sentence and three numbers."""

from __future__ import annotations

from dataclasses import dataclass

from . import units
from .names import name
from .summary import Row


@dataclass(frozen=True)
class Verdict:
    """headline: one sentence. figures: (number, what it is) of the fastest method, if any is
    faster."""

    headline: str
    figures: list[tuple[str, str]]


def verdict(listed: list[Row]) -> Verdict:
    """Which method is fastest, and how much of its promise came true.

    A method is faster only where the whole interval of its speed-up lies above 1; where there are
    too few rounds for an interval, that is said.
    """
    measured = [row for row in listed if row.speedup and row.cell.name != "vanilla"]
    if not measured:
        return Verdict("Nothing was measured beside vanilla: there is no speed-up to judge.", [])
    best = max(measured, key=lambda row: row.speedup.value if row.speedup else 0.0)
    gain = best.speedup
    assert gain is not None
    if gain.low is None or gain.high is None:
        doubt = f"too few rounds to be sure ({gain.samples})"
        headline = f"{name(best.cell)} looks fastest at {units.times(gain.value)}: {doubt}."
    elif gain.low <= 1:
        return Verdict(
            f"No method is faster than vanilla beyond doubt: the best, {name(best.cell)}, ran at "
            f"{units.times(gain.value)} ({gain.low:.2f} to {gain.high:.2f}).", [],
        )  # fmt: skip
    else:
        tie = _tie(best, measured)
        headline = f"{name(best.cell)} is fastest{tie}: {units.times(gain.value)}"
        headline += f" ({gain.low:.2f} to {gain.high:.2f}) where FLOPs promise "
        headline += f"{units.times(best.promised)}."
    figures = [
        (units.times(gain.value), "measured, end to end"),
        (units.times(best.promised), "promised by FLOPs"),
        (units.percent(best.realised, 0), "of the promised saving of time came true"),
    ]
    return Verdict(headline, figures)


def _tie(best: Row, measured: list[Row]) -> str:
    """Says which others its interval does not lie apart from."""
    low = best.speedup.low if best.speedup else None
    near = [
        name(row.cell)
        for row in measured
        if row is not best and low is not None and row.speedup
        if row.speedup.high is not None and row.speedup.high >= low
    ]
    if not near:
        return ""
    return f", if not {near[0]}" if len(near) == 1 else f", if not one of {len(near)} others"
