"""Does the interval of a speed-up hold what it says? A/A runs, and runs with a known slow-down.

A/A: vanilla against itself, many times; the interval should cover 1 in 95 of 100 runs. Then against
a plug-in that burns a known share of vanilla's time: the interval should cover the true ratio. With
two --python: one callable in both environments, each round in fresh processes, which takes longer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import tpprof
from tpprof.methods.contract.plugins import load_plugins
from tpprof.profiler.models.model import Model
from tpprof.reports.analysis.summary import Row, rows

PLUGIN = Path(__file__).parent.parent / "tests" / "misbehaving_plugin.py"
DECODER = PLUGIN.parent / "callables" / "small_decoder.py"
NEVER = 1e-9  # no interval is so narrow: time alone ends a run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=3.0, help="for the rounds of one A/A run")
    parser.add_argument("--slow", type=float, default=0.05, help="share of vanilla's time to burn")
    parser.add_argument("--slow-runs", type=int, default=5)
    parser.add_argument("--slow-seconds", type=float, default=40.0, help="for one run against it")
    parser.add_argument("--python", action="append", default=[], help="twice: environments")
    parser.add_argument("--python-runs", type=int, default=20)
    parser.add_argument("--python-seconds", type=float, default=30.0, help="for one run of those")
    options = parser.parse_args()
    # With more threads the burnt time is not all that the plug-in costs: the idle ones fall asleep.
    torch.set_num_threads(1)
    load_plugins([str(PLUGIN)])
    model = tpprof.load("tiny-llava")
    print(f"{model.name}, 64 visual tokens, on {model.device}, one thread")
    if options.runs:
        against_itself(model, options.runs, options.seconds)
    if options.slow_runs:
        against_a_slower_one(model, options.slow_runs, options.slow, options.slow_seconds)
    if options.python:
        across_environments(options.python, options.python_runs, options.python_seconds)


def against_itself(model: Model, runs: int, seconds: float) -> None:
    covered, widths, rounds = 0, [], []
    for _ in range(runs):
        _, again = measured(model, "vanilla:tag=again", seconds)
        low, value, high = interval(again)
        covered += low <= 1 <= high
        widths.append((high - low) / 2 / value)
        rounds.append(again.speedup.samples if again.speedup else 0)
    print(
        f"A/A, {seconds:g} s a run: the interval of the speed-up covers 1 in {covered} of {runs} "
        f"runs;\n  half its width is {middle(widths):.1%} (median), from {min(rounds)} to "
        f"{max(rounds)} rounds"
    )


def against_a_slower_one(model: Model, runs: int, share: float, seconds: float) -> None:
    vanilla, _ = measured(model, "vanilla:tag=again", seconds)
    assert vanilla.latency is not None
    burnt = share * vanilla.latency.value
    covered, found = 0, 0
    print(f"{burnt * 1e3:.2f} ms burnt in each request, {seconds:g} s a run:")
    for _ in range(runs):
        vanilla, slow = measured(model, f"burn:seconds={burnt:.6f}", seconds)
        assert vanilla.latency is not None
        low, value, high = interval(slow)
        true = 1 + burnt / vanilla.latency.value
        covered += low <= 1 / true <= high
        found += high < 1
        print(
            f"  {true - 1:.1%} of vanilla burnt, slow-down found {1 / value - 1:.1%} "
            f"({1 / high - 1:.1%} to {1 / low - 1:.1%})"
        )
    print(f"  the interval covers the truth in {covered} of {runs} and excludes 1 in {found}")


def across_environments(pythons: list[str], runs: int, seconds: float) -> None:
    covered, widths = 0, []
    for _ in range(runs):
        record = tpprof.measure(
            {"same": f"{DECODER}:model"},
            python=pythons,
            device="cpu",
            passes=False,
            new_tokens=8,
            max_seconds=seconds,
            target_ci=NEVER,
        )
        low, value, high = interval(rows(record)[1])
        covered += low <= 1 <= high
        widths.append((high - low) / 2 / value)
        print(f"  {value:.4f} ({low:.4f} to {high:.4f})")
    print(
        f"A/A of a callable in {' and '.join(pythons)}: the interval covers 1 in {covered} of "
        f"{runs} runs; half its width is {middle(widths):.1%} (median)"
    )


def measured(model: Model, method: str, seconds: float) -> tuple[Row, Row]:
    record = tpprof.compare(
        [method], model=model, visual_tokens=64, max_seconds=seconds, target_ci=NEVER
    )
    vanilla, other = rows(record)
    return vanilla, other


def interval(row: Row) -> tuple[float, float, float]:
    assert row.speedup is not None
    assert row.speedup.low is not None
    assert row.speedup.high is not None
    return row.speedup.low, row.speedup.value, row.speedup.high


def middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


if __name__ == "__main__":
    main()
