"""The timing gate's decision: looks at 8, 16 and 24 pairs, a control, and one confirmation.

It is given pairs by a function and knows nothing of processes: the simulation in
`benchmarks/gate_power.py` runs this very code.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from .. import units
from ..statistics import CONFIDENCE, trimmed
from .evidence import Evidence, holm
from .rules import Rules, check_power
from .verdicts import Judged, Verdict

Key = tuple[str, str]
"""A cell and a metric."""
FEWEST = 7  # pairs: 2^-7 is the first sign-flip p-value below 0.01
FEWEST_CONTROLS = 2


@dataclass
class Series:
    """Of one cell and metric: seconds of base and head, a pair for each two processes, and
    log-ratios of two processes of the base (the A/A control)."""

    pairs: list[tuple[float, float]] = field(default_factory=list)
    controls: list[float] = field(default_factory=list)

    def add(self, other: Series) -> None:
        self.pairs += other.pairs
        self.controls += other.controls

    @property
    def logs(self) -> list[float]:
        return [math.log(head / base) for base, head in self.pairs]

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


def decide(take: Take, keys: Sequence[Key], rules: Rules) -> list[Judged]:
    """Take pairs until every key has a verdict or the looks are used up; confirm every FAIL.

    Raises NoVerdictError, before anything is taken, where no number of pairs could fail.
    """
    check_power(rules, len(keys))
    held = {key: Series() for key in keys}
    found: dict[Key, Judged] = {}
    taken = 0
    for count, alpha in zip(rules.looks, rules.alphas, strict=True):
        left = [key for key in keys if key not in found]
        if not left:
            break
        batch = take(count - taken, left)
        taken = count
        for key in left:
            held[key].add(batch.series.get(key, Series()))
        if batch.stopped:
            found |= {key: _row(key, Verdict.NO_VERDICT, held[key], batch.stopped) for key in left}
            break
        found |= {
            key: _row(key, batch.broken[key[0]][0], held[key], batch.broken[key[0]][1])
            for key in left
            if key[0] in batch.broken
        }
        left = [key for key in left if key not in found]
        found |= _look(held, left, len(keys), alpha, rules, last=count == rules.looks[-1])
    failing = [
        key for key in keys if found[key].verdict is Verdict.FAIL and "p" in found[key].values
    ]
    if failing:
        found |= _confirmed(take, failing, found, rules)
    return [found[key] for key in keys]


def _look(
    held: Mapping[Key, Series],
    keys: Sequence[Key],
    family: int,
    alpha: float,
    rules: Rules,
    *,
    last: bool,
) -> dict[Key, Judged]:
    """Verdicts after one look, of those keys that have one."""
    known = {key: Evidence.of(held[key].logs) for key in keys if len(held[key].pairs) >= FEWEST}
    adjusted = holm({key: evidence.p for key, evidence in known.items()}, family)
    found = {}
    for key in keys:
        series = held[key]
        if key not in known:
            if last:
                reason = f"too few pairs: {len(series.pairs)}, {FEWEST} at least can fail"
                found[key] = _row(key, Verdict.NO_VERDICT, series, reason)
            continue
        evidence, tolerance = known[key], rules.tolerance[key[1]]
        verdict, rule = _verdict(evidence, adjusted[key], alpha, series, key[1], rules)
        doubt = control_doubt(series.controls, tolerance)
        if doubt and (last or verdict is not Verdict.INCONCLUSIVE):
            verdict, rule = Verdict.NO_VERDICT, doubt
        if last or verdict not in (Verdict.INCONCLUSIVE, Verdict.NO_VERDICT):
            found[key] = _row(key, verdict, series, rule, evidence, alpha, adjusted[key])
    return found


def _verdict(
    evidence: Evidence, adjusted: float, alpha: float, series: Series, metric: str, rules: Rules
) -> tuple[Verdict, str]:
    """What one look says, and by which rule."""
    tolerance, floor = rules.tolerance[metric], rules.floor.get(metric, 0.0)
    limit, estimate, high = math.log1p(tolerance), evidence.mean.centre, evidence.high(alpha)
    base, head = series.medians
    allowed, level = units.percent(tolerance), f"{1 - alpha:.1%}"
    if adjusted <= alpha and estimate > limit and head - base > floor:
        return Verdict.FAIL, (
            f"slower beyond chance (adjusted p {adjusted:.2g} <= {alpha:g}) and by more than "
            f"{allowed} and {units.microseconds(floor)}"
        )
    if high < 0 and estimate < -limit:
        return Verdict.IMPROVED, f"faster by more than {allowed}, by the {level} bound"
    if high < limit:
        return Verdict.PASS, f"a slow-down of {allowed} is excluded by the {level} bound"
    if base * math.expm1(high) < floor:
        return Verdict.PASS, f"a slow-down of {units.microseconds(floor)} is excluded ({level})"
    return Verdict.INCONCLUSIVE, f"neither a slow-down of {allowed} nor its absence is shown"


def control_doubt(controls: Sequence[float], tolerance: float) -> str:
    """Why the A/A control, base against base, discredits the job; "" if it does not."""
    if len(controls) < FEWEST_CONTROLS:
        return f"no A/A control: {len(controls)} of {FEWEST_CONTROLS} pairs of base processes"
    mean, limit = trimmed(controls), math.log1p(tolerance)
    width = mean.reach(CONFIDENCE)
    told = f"base against base differs by {_change(mean.centre)}, ±{_change(width)[1:]}"
    if abs(mean.centre) > limit / 2:
        return f"A/A control out of bounds: {told}; more than half of {units.percent(tolerance)}"
    if width > limit:
        return f"A/A control too wide: {told}; wider than {units.percent(tolerance)}"
    return ""


def _confirmed(
    take: Take, keys: Sequence[Key], found: Mapping[Key, Judged], rules: Rules
) -> dict[Key, Judged]:
    """The failing keys again, on processes of their own: a FAIL stands if it is found anew."""
    batch, rows = take(rules.confirm, keys), {}
    for key in keys:
        series, first = batch.series.get(key, Series()), found[key]
        if batch.stopped or key[0] in batch.broken or len(series.pairs) < FEWEST:
            reason = batch.stopped or batch.broken.get(key[0], ("", "too few pairs"))[1]
            rows[key] = _again(first, Verdict.NO_VERDICT, f"could not be confirmed: {reason}", {})
            continue
        evidence = Evidence.of(series.logs)
        again = _verdict(evidence, evidence.p, rules.alpha, series, key[1], rules)[0]
        change = _change(evidence.mean.centre)
        values = {"confirmation": evidence.mean.centre, "confirmation_p": evidence.p}
        if again is Verdict.FAIL:
            told = f"{first.rule}; confirmed by {len(series.pairs)} new pairs ({change})"
            rows[key] = _again(first, Verdict.FAIL, told, values)
        else:
            told = f"failed once, and not again in {len(series.pairs)} new pairs ({change})"
            rows[key] = _again(first, Verdict.INCONCLUSIVE, told, values)
    return rows


def _again(first: Judged, verdict: Verdict, rule: str, values: dict[str, float]) -> Judged:
    return Judged(
        first.cell, first.metric, verdict, first.before, first.after, first.change, rule,
        {**first.values, **values},
    )  # fmt: skip


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
    values: dict[str, float | int | None] = {
        "base_seconds": base, "head_seconds": head, "pairs": len(series.pairs),
    }  # fmt: skip
    change = units.NA
    if evidence is not None:
        low, high = evidence.low(alpha), evidence.high(alpha)
        change = f"{_change(evidence.mean.centre)} ({_change(low)} to {_change(high)})"
        values |= {
            "log_ratio": evidence.mean.centre, "low": low, "high": high, "alpha": alpha,
            "hodges_lehmann": evidence.middle, "p": evidence.p, "p_student": evidence.p_student,
            "p_flip": evidence.p_flip, "p_adjusted": adjusted,
        }  # fmt: skip
    return Judged(
        cell, f"{metric} ms", verdict, units.milliseconds(base), units.milliseconds(head), change,
        rule, values,
    )  # fmt: skip


def _change(log: float) -> str:
    """A log-ratio as people read it, with its sign."""
    return f"{math.expm1(log) * 100:+.1f} %"
