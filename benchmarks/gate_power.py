"""How often is the timing gate wrong? Its own decision code, fed with simulated processes.

A family is one gate: two cells with three metrics each. A/A: base and head are the same. Then one
metric of the head is slower by a multiple of the tolerance. A process has an offset of its own, the
machine drifts from process to process, the second process of a pair is a little slower, and some
requests are slow; what the gate sees of a process is the median of its requests.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tpprof.reports.gate.abba import blocks
from tpprof.reports.gate.rules import Rules
from tpprof.reports.gate.timing import Batch, Key, Series, decide
from tpprof.reports.gate.verdicts import Gate, Verdict

KEYS: list[Key] = [(cell, metric) for cell in "ab" for metric in ("latency", "prefill", "decode")]
SLOW = KEYS[0]
SECONDS = 0.1


@dataclass(frozen=True)
class Noise:
    """Standard deviations of logarithms: request, process, step of the drift from one process to
    the next. slot: what the second process of a pair is slower. tails: share of slow requests, each
    longer by `tail` on average. bimodal: by what half of all processes are slower. doubled: one
    process of the first look takes twice as long."""

    name: str
    tolerance: float
    request: float
    process: float
    drift: float
    slot: float
    tails: float = 0.05
    bimodal: float = 0.0
    doubled: bool = False

    @property
    def tail(self) -> float:
        return 5 * self.request


QUIET = Noise("quiet GPU", 0.02, 0.005, 0.002, 0.0005, 0.001)
SHARED = Noise("shared GPU", 0.05, 0.02, 0.01, 0.003, 0.003)
CPU = Noise("shared CPU", 0.10, 0.05, 0.02, 0.01, 0.005)
MODELS = [
    QUIET,
    SHARED,
    CPU,
    dataclasses.replace(SHARED, name="bimodal processes", bimodal=0.125),
    dataclasses.replace(SHARED, name="bimodal, tolerance 25 %", bimodal=0.125, tolerance=0.25),
    dataclasses.replace(SHARED, name="drift of 2 % a process", drift=0.02),
    dataclasses.replace(SHARED, name="slow tails, 30 %", tails=0.3),
    dataclasses.replace(SHARED, name="one process x2", doubled=True),
]


class Machine:
    """Takes pairs as the profiler does, from a noise model. effect: log-ratio of the slow key."""

    def __init__(self, noise: Noise, effect: float, requests: int, seed: list[int]) -> None:
        self.noise, self.effect, self.requests = noise, effect, requests
        self.random = np.random.default_rng(seed)
        self.level = 0.0
        self.pairs = self.began = 0

    def __call__(self, pairs: int, keys: Sequence[Key]) -> Batch:
        wild = int(self.random.integers(2 * pairs)) if self.noise.doubled and not self.pairs else -1
        series = {key: Series() for key in keys}
        for block in blocks(pairs, self.began):
            ran = []
            for place, arm in enumerate(block.order):
                slower = self.noise.slot * (place % 2) + np.log(2) * (wild == 0)
                ran.append(self._process(arm, keys, slower))
                wild -= 1
            for number, key in enumerate(keys):
                times = [times[number] for times in ran]
                series[key].add(Series(block.pairs(times), block.controls(times)))
        self.pairs += pairs
        self.began += pairs // 2
        return Batch(series)

    def _process(self, arm: str, keys: Sequence[Key], slower: float) -> list[float]:
        noise, draw = self.noise, self.random
        self.level += draw.normal(0, noise.drift)
        shape = (len(keys), self.requests)
        logs = draw.normal(0, noise.request, shape)
        slow = draw.random(shape) < noise.tails
        logs += slow * draw.exponential(noise.tail, shape)
        logs += draw.normal(0, noise.process, (len(keys), 1)) + self.level + slower
        logs += np.log1p(noise.bimodal) * (draw.random((len(keys), 1)) < 0.5)
        if arm == "B" and SLOW in keys:
            logs[keys.index(SLOW)] += self.effect
        return [float(second) for second in SECONDS * np.exp(np.median(logs, axis=1))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", type=int, default=1000, help="A/A gates of each model")
    parser.add_argument("--slow-families", type=int, default=300, help="gates of each effect")
    parser.add_argument("--requests", type=int, default=10, help="of each process")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"{len(KEYS)} metrics a family; shares of families, pairs of processes on average")
    print(f"{'noise':<26}{'tolerance':>10}{'slow-down':>11}{'families':>10}", end="")
    print(
        "".join(f"{word:>14}" for word in ("FAIL", "PASS", "INCONCLUSIVE", "NO VERDICT", "pairs"))
    )
    for number, noise in enumerate(MODELS):
        for times in (0.0, 1.0, 1.5, 2.0):
            count = options.slow_families if times else options.families
            seeds = [options.seed, number, round(10 * times)]
            told(noise, times, count, options.requests, seeds)


def told(noise: Noise, times: float, families: int, requests: int, seeds: list[int]) -> None:
    """A line of the table. With a slow-down the verdict is that of the slow metric."""
    verdicts: Counter[Verdict] = Counter()
    pairs = 0
    rules = Rules(tolerance=dict.fromkeys(("latency", "prefill", "decode"), noise.tolerance))
    for family in range(families):
        machine = Machine(
            noise, float(np.log1p(times * noise.tolerance)), requests, [*seeds, family]
        )
        rows = decide(machine, KEYS, rules)
        slow = [row for row in rows if (row.cell, row.metric.split()[0]) == SLOW]
        verdicts[Gate("timing", "", slow if times else rows).verdict] += 1
        pairs += machine.pairs
    passed = verdicts[Verdict.PASS] + verdicts[Verdict.IMPROVED]
    counts = [verdicts[Verdict.FAIL], passed, verdicts[Verdict.INCONCLUSIVE]]
    shares = [count / families for count in (*counts, verdicts[Verdict.NO_VERDICT])]
    effect = f"{times * noise.tolerance:.1%}" if times else "none"
    print(f"{noise.name:<26}{noise.tolerance:>10.0%}{effect:>11}{families:>10}", end="")
    print("".join(f"{share:>14.1%}" for share in shares), f"{pairs / families:>13.1f}", flush=True)


if __name__ == "__main__":
    main()
