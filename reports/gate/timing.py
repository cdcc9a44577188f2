"""The timing gate's decision: looks at 8, 16 and 24 pairs, a control, and one confirmation.

Beyond chance is what the exact sign-flip test says: it alone spends the level, by look and by Holm.
The studentised bound and the estimate come on top.

It is given pairs by a function and knows nothing of processes: the simulation in
`benchmarks/gate_power.py` runs this very code.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from .. import units
from ..analysis.intervals import CONFIDENCE, fenced
from .evidence import Evidence, change, holm
from .rules import Rules, check_power
from .verdicts import Judged, Verdict

Key = tuple[str, str]
"""A cell and a metric."""
FEWEST = 7  # pairs: 2^-7 is the first sign-flip p-value below 0.01
FEWEST_CONTROLS = 2
SURE = 0.99  # that a control is off, and not merely scattered, in which case it may be too wide


@dataclass
class Series:
    """Of one cell and metric: seconds of base and head, a pair for each two processes, and
    log-ratios of two processes of the same arm (the A/A control). earlier: log-ratios of the pairs
    that these have to confirm."""

    pairs: list[tuple[float, float]] = field(default_factory=list)
    controls: list[float] = field(default_factory=list)
    earlier: list[float] = field(default_factory=list)

    def add(self, other: Series) -> None:
        self.pairs += other.pairs
        self.controls += other.controls

    @property
    def logs(self) -> list[float]:
        return [math.log(head / base) for base, head in self.pairs]

    def to_confirm(self) -> Series:
        """An empty one, to hold pairs of their own of the same job."""
        return Series(controls=list(self.controls), earlier=self.logs)

    @property
    def medians(self) -> tuple[float, float]:
        bases, heads = zip(*self.pairs, strict=True)
        return statistics.median(bases), statistics.median(heads)


@dataclass
class Batch:
    """What was measured in one go. broken: cells that have no times, with the verdict that this
    means and the reason. stopped: why none of it can be judged."""

    series: dict[Key, Series] = field(default_factory=dict)
    broken: dict[str, tuple[Verdict, str]] = field(default_factory=dict)
    stopped: str = ""


class Take(Protocol):
    """Measures so many pairs more of these cells and metrics, in fresh processes."""

    def __call__(self, pairs: int, keys: Sequence[Key]) -> Batch: ...


@dataclass(frozen=True)
class Look:
    """When is judged, and at which level. family: the hypotheses that share the level by Holm; None
    where each has it for itself."""

    pairs: int
    alpha: float
    family: int | None
    last: bool


def decide(take: Take, keys: Sequence[Key], rules: Rules) -> list[Judged]:
    """Take pairs until every key has a verdict or the looks are used up; confirm every FAIL.

    Raises NoVerdictError, before anything is taken, where no number of pairs could fail.
    """
    check_power(rules, len(keys))
    held = {key: Series() for key in keys}
    spent = zip(rules.looks, rules.alphas, strict=True)
    looks = [Look(pairs, a, len(keys), pairs == rules.looks[-1]) for pairs, a in spent]
    found = _followed(take, held, looks, rules)
    failing = [key for key, row in found.items() if row.verdict is Verdict.FAIL and _tested(row)]
    if failing:
        anew = {key: held[key].to_confirm() for key in failing}
        looks = [Look(n, rules.alpha, None, n == rules.looks[-1]) for n in rules.looks]
        again = _followed(take, anew, looks, rules)
        found |= {key: _confirmed(found[key], row) for key, row in again.items()}
    return [found[key] for key in keys]


def _followed(
    take: Take, held: dict[Key, Series], looks: Sequence[Look], rules: Rules
) -> dict[Key, Judged]:
    """Verdicts of all keys, each as early as the looks give it. The pairs go into `held`."""
    found: dict[Key, Judged] = {}
    taken = 0
    for look in looks:
        left = [key for key in held if key not in found]
        if not left:
            break
        batch = take(look.pairs - taken, left)
        taken = look.pairs
        for key in left:
            held[key].add(batch.series.get(key, Series()))
        if batch.stopped:
            return found | {
                key: _row(key, Verdict.NO_VERDICT, held[key], batch.stopped) for key in left
            }
        found |= {
            key: _row(key, batch.broken[key[0]][0], held[key], batch.broken[key[0]][1])
            for key in left
            if key[0] in batch.broken
        }
        found |= _judged({key: held[key] for key in left if key not in found}, look, rules)
    return found


def _judged(held: Mapping[Key, Series], look: Look, rules: Rules) -> dict[Key, Judged]:
    """Verdicts of one look, of those keys that have one."""
    known = {key: Evidence.of(s.logs) for key, s in held.items() if len(s.pairs) >= FEWEST}
    adjusted = {key: evidence.p for key, evidence in known.items()}
    if look.family is not None:
        adjusted = holm(adjusted, look.family)
    found = {}
    for key, series in held.items():
        if key not in known:
            if look.last:
                reason = f"too few pairs: {len(series.pairs)}, {FEWEST} at least can fail"
                found[key] = _row(key, Verdict.NO_VERDICT, series, reason)
            continue
        evidence, tolerance = known[key], rules.tolerance[key[1]]
        verdict, rule = _verdict(evidence, adjusted[key], look.alpha, series, key[1], rules)
        doubt = control_doubt(series.controls, tolerance)
        if doubt and (look.last or verdict is not Verdict.INCONCLUSIVE):
            verdict, rule = Verdict.NO_VERDICT, doubt
        if look.last or verdict not in (Verdict.INCONCLUSIVE, Verdict.NO_VERDICT):
            row = _row(key, verdict, series, rule, evidence, look.alpha, adjusted[key])
            row.values["tolerance"] = tolerance
            found[key] = row
    return found


def _verdict(
    evidence: Evidence, adjusted: float, alpha: float, series: Series, metric: str, rules: Rules
) -> tuple[Verdict, str]:
    """What one look says, and by which rule."""
    tolerance, floor = rules.tolerance[metric], rules.floor.get(metric, 0.0)
    limit, high, plain = math.log1p(tolerance), evidence.high(alpha), statistics.fmean(series.logs)
    estimate = _together(evidence, series.earlier)
    base, head = series.medians
    allowed, level = units.percent(tolerance), f"{1 - alpha:.1%}"
    beyond = adjusted <= alpha and evidence.low(rules.alpha) > 0
    refuted = bool(series.earlier) and high < limit
    if beyond and not refuted and estimate > limit and head - base > floor:
        return Verdict.FAIL, (
            f"slower beyond chance (adjusted p {adjusted:.2g} <= {alpha:g}) and by more than "
            f"{allowed} and {units.microseconds(floor)}"
        )
    if high < 0 and estimate < -limit:
        return Verdict.IMPROVED, f"faster by more than {allowed}, by the {level} bound"
    if high < limit and plain < limit:
        return Verdict.PASS, f"a slow-down of {allowed} is excluded by the {level} bound"
    if base * math.expm1(high) < floor:
        return Verdict.PASS, f"a slow-down of {units.microseconds(floor)} is excluded ({level})"
    if high < limit:
        return Verdict.INCONCLUSIVE, f"few pairs are far slower: with them it is {change(plain)}"
    return Verdict.INCONCLUSIVE, f"neither a slow-down of {allowed} nor its absence is shown"


def _together(evidence: Evidence, earlier: Sequence[float]) -> float:
    """The log-ratio of all pairs, those of each set as far as they lie within its own fences."""
    if not earlier:
        return evidence.mean.centre
    both = len(earlier) * fenced(earlier).centre + evidence.pairs * evidence.mean.centre
    return both / (len(earlier) + evidence.pairs)


def control_doubt(controls: Sequence[float], tolerance: float) -> str:
    """Why the A/A control, the same code against itself, discredits the job; "" if it does not."""
    if len(controls) < FEWEST_CONTROLS:
        return f"no A/A control: {len(controls)} of {FEWEST_CONTROLS} pairs of the same arm"
    mean, limit = fenced(controls), math.log1p(tolerance)
    width = mean.reach(CONFIDENCE)
    text = f"the same arm twice differs by {change(mean.centre)}, ±{change(width)[1:]}"
    if abs(mean.centre) > max(limit / 2, mean.reach(SURE)):
        return f"A/A control out of bounds: {text}; more than half of {units.percent(tolerance)}"
    if width > limit:
        return f"A/A control too wide: {text}; wider than {units.percent(tolerance)}"
    return ""


def _tested(row: Judged) -> bool:
    """Whether a row rests on pairs, and not on a head that does not run."""
    return "p" in row.values


def _confirmed(first: Judged, again: Judged) -> Judged:
    """A FAIL and what the same looks said on processes of their own: it stands if these are slower
    beyond chance too, and all pairs together by more than the tolerance."""
    text = f"{again.values['pairs']} new pairs ({again.change})"
    if again.verdict is Verdict.FAIL:
        text = f"confirmed by {text}" if _tested(again) else again.rule
        verdict, rule = Verdict.FAIL, f"{first.rule}; {text}"
    elif again.verdict is Verdict.NO_VERDICT:
        verdict, rule = Verdict.NO_VERDICT, f"could not be confirmed: {again.rule}"
    else:
        verdict, rule = Verdict.INCONCLUSIVE, f"failed once, and not again in {text}"
    values = {f"confirmation_{name}": value for name, value in again.values.items()}
    return replace(first, verdict=verdict, rule=rule, values={**first.values, **values})


def _row(
    key: Key,
    verdict: Verdict,
    series: Series,
    rule: str,
    evidence: Evidence | None = None,
    alpha: float = 0.0,
    adjusted: float | None = None,
) -> Judged:
    cell, metric = key
    base, head = series.medians if series.pairs else (None, None)
    values: dict[str, Any] = {
        "base_seconds": base,
        "head_seconds": head,
        "pairs": len(series.pairs),
        "log_ratios": series.logs,
    }
    text = units.NA
    if evidence is not None:
        low, high = evidence.low(alpha), evidence.high(alpha)
        text = f"{change(evidence.mean.centre)} {units.ends(change(low), change(high))}"
        values |= {
            "log_ratio": evidence.mean.centre,
            "low": low,
            "high": high,
            "alpha": alpha,
            "hodges_lehmann": evidence.middle,
            "p": evidence.p,
            "p_adjusted": adjusted,
        }
    return Judged(
        cell,
        f"{metric} ms",
        verdict,
        units.milliseconds(base),
        units.milliseconds(head),
        text,
        rule,
        values,
    )
