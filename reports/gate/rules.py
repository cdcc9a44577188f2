"""The rules of the gate: tolerances, floors, looks and levels; refused where no test could fail."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec

from ..record.base import Amount, RecordError, Struct
from .verdicts import NoVerdictError

METRICS = ("latency", "prefill", "decode")
FLOORS = {"latency": 50e-6, "prefill": 50e-6, "decode": 20e-6}
"""Seconds (decode: per token) below which no change is a regression."""
ON_GPU = {"latency": 0.05, "prefill": 0.05, "decode": 0.07}
ON_CPU = {"latency": 0.25, "prefill": 0.25, "decode": 0.25}
"""Tolerances until `tpprof gate calibrate` has found those of the machine."""
MEMORY = 0.01
CLOCK_SPREAD = 0.03
MOST_TOLERANCE = 1.0
"""A head twice as slow, or more, is never within a tolerance."""
MOST_MEMORY = 0.25
MOST_CLOCK = 0.1
MOST_FLOORS = {"latency": 1e-3, "prefill": 1e-3, "decode": 4e-4}
"""Seconds: twenty times the usual floors. Larger ones would hide what is measured."""
MOST_ALPHA = 0.05
MOST_PAIRS, MOST_REQUESTS = 1000, 10_000
MemoryShare = Annotated[float, msgspec.Meta(gt=0, le=MOST_MEMORY)]
"""A tolerance of a peak of memory."""


class Rules(Struct):
    """What decides.

    metrics: what is judged of a cell. tolerance, floor: by metric; a share, and seconds. Without a
    tolerance, that of the kind of device holds. looks: process pairs after which is judged, and of
    the independent set that has to confirm a FAIL; alphas: the level that each look spends.
    requests: timed requests of each process. memory: tolerance of the allocator's peak. clock:
    difference of the arms' SM clocks above which nothing is judged. All of them have limits, for
    the rules may come from what is judged.
    """

    metrics: list[str] = msgspec.field(default_factory=lambda: list(METRICS))
    tolerance: dict[str, float] = msgspec.field(default_factory=dict)
    floor: dict[str, Amount] = msgspec.field(default_factory=lambda: dict(FLOORS))
    looks: list[int] = msgspec.field(default_factory=lambda: [8, 16, 24])
    alphas: list[float] = msgspec.field(default_factory=lambda: [0.004, 0.003, 0.003])
    requests: int = 10
    memory: float = MEMORY
    clock: float = CLOCK_SPREAD

    @property
    def alpha(self) -> float:
        """The level of the whole family, all looks together."""
        return sum(self.alphas)


def split_level(looks: int, level: float = 0.01) -> list[float]:
    """The level, spent over so many looks: the first one gets what does not divide."""
    each = math.floor(level / max(looks, 1) * 10_000) / 10_000
    return [round(level - each * (looks - 1), 6), *[each] * (looks - 1)]


def check_rules(rules: Rules) -> Rules:
    """The rules, if they make sense; raises RecordError."""
    for metric in [*rules.metrics, *rules.tolerance]:
        if metric not in METRICS:
            raise RecordError(f"unknown metric {metric!r}; known: {', '.join(METRICS)}")
    if not rules.metrics:
        raise RecordError(f"metrics: one at least of {', '.join(METRICS)}")
    if len(set(rules.metrics)) < len(rules.metrics):
        raise RecordError(f"metrics: {', '.join(rules.metrics)} names one twice")
    limits = [(name, share, MOST_TOLERANCE) for name, share in rules.tolerance.items()]
    limits += [("memory", rules.memory, MOST_MEMORY), ("clock", rules.clock, MOST_CLOCK)]
    for name, share, most in limits:
        if not 0 < share <= most:  # which NaN is not either
            reason = f"must be a share above 0 and at most {most:g}, as 0.05, not {share}"
            raise RecordError(f"tolerance of {name} {reason}")
    for metric, seconds in rules.floor.items():
        if metric not in METRICS:
            raise RecordError(f"floor of {metric}: no such metric; known: {', '.join(METRICS)}")
        if not 0 <= seconds <= MOST_FLOORS[metric]:
            most = MOST_FLOORS[metric]
            raise RecordError(f"floor of {metric} must be from 0 to {most:g} s, not {seconds:g}")
    if not 1 <= rules.requests <= MOST_REQUESTS:
        raise RecordError(
            f"requests must be at least 1 and at most {MOST_REQUESTS}, not {rules.requests}"
        )
    if not rules.looks or len(rules.looks) != len(rules.alphas):
        raise RecordError("looks and alphas must be as many, and one at least")
    if rules.looks[-1] > MOST_PAIRS:
        raise RecordError(f"looks end at {MOST_PAIRS} pairs, not at {rules.looks[-1]}")
    if any(count < 2 or count % 2 for count in rules.looks):
        raise RecordError("pairs come in ABBA blocks of two: give even numbers from 2 up")
    if sorted(set(rules.looks)) != rules.looks:
        raise RecordError("looks must grow, as 8, 16, 24")
    if not all(alpha > 0 for alpha in rules.alphas) or not rules.alpha <= MOST_ALPHA:
        raise RecordError(f"alphas must lie above 0, and be at most {MOST_ALPHA:g} together")
    return rules


def check_power(rules: Rules, family: int) -> None:
    """Raises NoVerdictError where not even pairs that all agree could fail: the sign-flip test of
    n pairs has no p-value below 2^-n, and Holm multiplies it by the size of the family."""
    pairs, alpha = rules.looks[-1], rules.alphas[-1]
    if 2.0**-pairs * family > alpha:
        needed = math.ceil(math.log2(family / alpha))
        raise NoVerdictError(
            f"{pairs} pairs can never fail {family} metric(s) at a level of {alpha:g}: the exact "
            f"test needs {needed + needed % 2} pairs; too few pairs are no pass"
        )
