"""The one thing that matters in a run, in a sentence and three numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .. import units
from ..record.labels import as_it_ran, ran
from .intervals import CONFIDENCE, TRIM, Estimate, t_quantile
from .summary import Row


@dataclass(frozen=True)
class Headline:
    """headline: one sentence. figures: (number, what it is) of the fastest method, if any is
    faster."""

    headline: str
    figures: list[tuple[str, str]]


def headline_of(listed: list[Row]) -> Headline:
    """Which method is fastest, and how much of its promise came true.

    A method is faster only where the whole interval of its speed-up lies above 1, widened for the
    number of methods that it is the best of (Bonferroni); too few rounds for an interval are told.
    Every speed-up is over vanilla under the same runtime: where there are several, the one with the
    least latency is judged. Where a callable may have done other work, that is said.
    """
    measured = [row for row in listed if row.speedup and row.cell.name != "vanilla"]
    if not measured:
        return Headline("Nothing was measured beside vanilla: there is no speed-up to judge.", [])
    several = len({ran(row.cell) for row in measured}) > 1
    best = min(measured, key=_seconds) if several else max(measured, key=_gain)
    over = " over its own vanilla" if several else ""
    gain = best.speedup
    assert gain is not None
    lowest = _lowest(gain, len(measured))
    if gain.low is None or gain.high is None or lowest is None:
        doubt = f"too few rounds to be sure ({gain.samples})"
        at = f"{as_it_ran(best.cell)} looks fastest at {units.times(gain.value)}{over}"
        if gain.value <= 1:
            at = f"No method looks faster than vanilla: {as_it_ran(best.cell)} ran at "
            return Headline(f"{at}{units.times(gain.value)}{over}; {doubt}.", [])
        headline = f"{at}: {doubt}."
    elif lowest <= 1:
        aside = "" if gain.low <= 1 else f": too little for the best of {len(measured)}"
        which = (
            f"the one of the least latency, {as_it_ran(best.cell)},"
            if several
            else (f"the best, {as_it_ran(best.cell)},")
        )
        return Headline(
            f"No method is faster than vanilla beyond doubt: {which} ran at "
            f"{units.times(gain.value)} {units.interval(gain.low, gain.high)}{over}{aside}.",
            [],
        )
    else:
        tie = _tie(best, measured, several=several)
        headline = f"{as_it_ran(best.cell)} is fastest{tie}: {units.times(gain.value)}"
        headline += f" {units.interval(gain.low, gain.high)}{over}{_promise(best)}."
    if several:
        headline += _beaten(best, measured, listed)
    if doubt := _unlike(best, listed):
        headline += f" Nothing says that it did the same work: {doubt}."
    figures = [(units.times(gain.value), f"measured, end to end{over}")]
    if best.promised is not None:
        figures.append((units.times(best.promised), "promised by FLOPs, phase by phase"))
    if best.over_promise:
        figures.append((units.times(best.over_promise.value), "the promised time"))
    return Headline(headline, figures)


def _unlike(row: Row, listed: list[Row]) -> str:
    """Why a callable may have done other work than what it is compared with; "" where both were
    given one request and gave equally many tokens. The engine's own cells do the same work."""
    cell = row.cell
    vanillas = [one.cell for one in listed if one.cell.name == "vanilla" and not one.cell.error]
    vanilla = next((one for one in vanillas if one.runtime == cell.runtime), vanillas[0])
    own = [one.method for one in (cell, vanilla) if one.callable and one.callable.own_inputs]
    if own:
        return f"{' and '.join(own)} made inputs of {'their' if len(own) > 1 else 'its'} own"
    if not (cell.callable or vanilla.callable):
        return ""
    gave, due = cell.generated_tokens, vanilla.generated_tokens
    unseen = [one.method for one in (cell, vanilla) if one.callable and not one.generated_tokens]
    if unseen:
        return f"how many tokens {' and '.join(unseen)} gave was not seen"
    return f"its tokens are {gave}, those of {vanilla.method} {due}" if gave != due else ""


def _promise(row: Row) -> str:
    """How much of what FLOPs promise, phase by phase, came true; or what they promise."""
    if row.over_promise is not None:
        return f", in {units.times(row.over_promise.value)} the time that FLOPs promise"
    return f" where FLOPs promise {units.times(row.promised)}" if row.promised else ""


def _gain(row: Row) -> float:
    return row.speedup.value if row.speedup else 0.0


def _seconds(row: Row) -> float:
    return row.latency.value if row.latency else math.inf


def _lowest(gain: Estimate, among: int) -> float | None:
    """The lower end of the interval, widened for the best of so many; None without an interval.

    The interval is Student's on the logarithms (statistics.speedup): a smaller chance of error
    scales its half width by the ratio of the quantiles.
    """
    if gain.low is None:
        return None
    freedom = gain.samples - 2 * int(TRIM * gain.samples) - 1
    wider = t_quantile(freedom, 1 - (1 - CONFIDENCE) / among) / t_quantile(freedom)
    return float(gain.value * (gain.low / gain.value) ** wider)


def _beaten(best: Row, measured: list[Row], listed: list[Row]) -> str:
    """Where runtimes differ: vanilla under another one that takes less time, and a larger speed-up
    over its own vanilla."""
    sentence = ""
    quick = min((row for row in listed if row.latency), key=_seconds)
    if quick.cell.name == "vanilla" and _seconds(quick) < _seconds(best):
        sentence += f" {as_it_ran(quick.cell)} alone takes less time."
    most = max(measured, key=_gain)
    if most is not best and _gain(most) > _gain(best):
        sentence += (
            f" The largest speed-up over its own vanilla is that of {as_it_ran(most.cell)}: "
            f"{units.times(_gain(most))}."
        )
    return sentence


def _tie(best: Row, measured: list[Row], *, several: bool) -> str:
    """Says which others its interval does not lie apart from: of latency across runtimes."""
    near = [
        as_it_ran(row.cell)
        for row in measured
        if row is not best and _near(best, row, several=several)
    ]
    if not near:
        return ""
    return f", if not {near[0]}" if len(near) == 1 else f", if not one of {len(near)} others"


def _near(best: Row, row: Row, *, several: bool) -> bool:
    """Whether the two intervals overlap; not where one is not known."""
    fast, slow = (row.latency, best.latency) if several else (best.speedup, row.speedup)
    if fast is None or slow is None or fast.low is None or slow.high is None:
        return False
    return slow.high >= fast.low
