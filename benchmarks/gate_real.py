"""The timing gate on this machine: A/A gates, which must not fail, and gates with a slow-down of
twice the calibrated tolerance, which must.

The slow-down is work: a plug-in method multiplies matrices. Every step is kept in --out, and the
same command goes on where it was broken off.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from tpprof.methods.contract.policies import Policy
from tpprof.profiler.commands.progress import progress
from tpprof.profiler.gate.arms import Arm
from tpprof.profiler.gate.pairs import Session
from tpprof.profiler.gate.timing import GateOptions, begun, run_ab
from tpprof.profiler.gate.tolerances import calibrate_tolerances, write_config
from tpprof.reports.gate.abba import Block
from tpprof.reports.gate.config import load_config
from tpprof.reports.gate.journal import Ran
from tpprof.reports.gate.rules import Rules
from tpprof.reports.gate.timing import Batch, Key, Series, decide
from tpprof.reports.gate.verdicts import Gate, Judged, Verdict
from tpprof.reports.record.journal import Journal
from tpprof.reports.record.spec import Subject, changed

PLUGIN = Path(__file__).parent.parent / "tests" / "extra_plugin.py"
POLICY: Policy = "rows"
CELL = "toil"
TRIED = 40  # products from which the time of one is found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/gate-real"))
    parser.add_argument("--aa", type=int, default=30, help="A/A gates")
    parser.add_argument("--slow", type=int, default=10, help="gates with a slow-down")
    parser.add_argument("--pairs", type=int, default=20, help="A/A pairs that calibrate")
    parser.add_argument("--requests", type=int, default=10, help="of each process")
    parser.add_argument("--model", default="tiny-llava")
    parser.add_argument("--visual-tokens", type=int, default=64)
    parser.add_argument("--device", default=None)
    parser.add_argument("--again", action="store_true", help="Judge what --out holds anew.")
    options = parser.parse_args()
    if options.again:
        again(options.out)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    base = plugin(options.out / "base.py", 0)
    asked = calibrated(options, base)
    tolerance = asked.rules.tolerance["latency"]
    products = products_of(options.out, asked, 2 * tolerance)
    head = plugin(options.out / "head.py", products)
    print(f"{products} products of matrices make the head slower by {2 * tolerance:.1%} at least")
    gates(options.out, "A/A", options.aa, asked)
    gates(options.out, "slow", options.slow, replace(asked, head=str(head)))
    summary(options.out, tolerance)


def plugin(path: Path, products: int) -> Path:
    """The plug-in with a method that multiplies so many matrices."""
    path.write_text(PLUGIN.read_text().replace("PRODUCTS = 0", f"PRODUCTS = {products}"))
    return path


def calibrated(options: argparse.Namespace, base: Path) -> GateOptions:
    """What the gates are asked, by the gate.toml that A/A pairs have calibrated."""
    path = options.out / "gate.toml"
    if not path.exists():
        subject = Subject.of(
            methods=[CELL],
            model=options.model,
            device=options.device,
            attention=[POLICY],
            visual_tokens=options.visual_tokens,
            new_tokens=2,
            plugin=[str(base)],
        )
        rules = Rules(metrics=["latency"], requests=options.requests)
        write_config(path, subject, rules)
    config = load_config(path)
    if not config.calibrated:
        with progress() as tell:
            (found,) = calibrate_tolerances(
                path, options.pairs, options.out / "calibration.jsonl", tell
            )
        config = load_config(path)
        print(f"SD of a pair {found.deviation:.1%}, detectable {found.detectable:.1%}")
    print(f"{config.calibrated}: tolerance of latency {config.rules.tolerance['latency']:.1%}")
    subject = changed(config.subject, plugin=())  # each arm brings its own
    return GateOptions(str(base), str(base), subject, config.rules, options.out, allow_same=True)


def products_of(out: Path, asked: GateOptions, share: float) -> int:
    """How many products take `share` of a request, from four processes with and without them."""
    path = out / "products.json"
    if not path.exists():
        tried = plugin(out / "tried.py", TRIED)
        base_arm = Arm("base", "base", plugins=(asked.base,))
        head_arm = Arm("head", "head", plugins=(str(tried),))
        first = begun(("base", "tried"), asked.subject, asked.rules)
        journal = Journal.begin(out / "products.jsonl", first)
        with progress() as tell:
            session = Session(base_arm, head_arm, asked.subject, asked.rules, journal, tell=tell)
            session.scout("A")
            series = session(4, [(CELL, "latency")]).series[CELL, "latency"]
        base, _ = series.medians
        each = statistics.median(head - base for base, head in series.pairs) / TRIED
        if each <= 0:
            raise SystemExit("the products cannot be told from noise: the machine is too busy")
        path.write_text(json.dumps({"products": int(share * base / each) + 1, "seconds": each}))
    return int(json.loads(path.read_text())["products"])


def gates(out: Path, kind: str, count: int, asked: GateOptions) -> None:
    """So many gates of one kind, those of earlier runs among them; a line for each."""
    for number in range(len(results(out, kind)), count):
        began = time.monotonic()
        journal = out / f"{kind.replace('/', '').lower()}-{number:02}.jsonl"
        with progress() as tell:
            gate = run_ab(replace(asked, out=journal), tell)
        row = latency(gate)
        line = {
            "kind": kind,
            "verdict": row.verdict.value,
            "rule": row.rule,
            "change": row.change,
            "seconds": time.monotonic() - began,
        }
        with (out / "results.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        told = f"{row.verdict.value}, {row.change}, {line['seconds']:.0f} s; {row.rule}"
        print(f"{kind} {number + 1}: {told}", flush=True)


def latency(gate: Gate) -> Judged:
    """The row that was timed, or the one that says why there is none. The operators of the slow
    head are more as well, which is not what is tried here."""
    timed = (row for row in gate.rows if row.metric.startswith("latency"))
    return next(timed, gate.rows[-1])


def results(out: Path, kind: str) -> list[dict[str, object]]:
    path = out / "results.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in map(json.loads, lines) if line["kind"] == kind]


def summary(out: Path, tolerance: float) -> None:
    for kind, wrong in (("A/A", Verdict.FAIL), ("slow", Verdict.PASS)):
        found = Counter(str(line["verdict"]) for line in results(out, kind))
        listed = ", ".join(f"{count} {verdict}" for verdict, count in found.most_common())
        print(
            f"{kind} at a tolerance of {tolerance:.1%}: {listed or 'none'} ({wrong.value} is wrong)"
        )


def again(out: Path) -> None:
    """What the rules of this version say of the processes that earlier gates measured."""
    rules = load_config(out / "gate.toml").rules
    for kind in ("aa", "slow"):
        found: Counter[str] = Counter()
        for path in sorted(out.glob(f"{kind}-[0-9][0-9].jsonl")):
            lines = [line for line in path.read_bytes().splitlines() if b'"type":"ran"' in line]
            ran = [msgspec.json.decode(line, type=Ran) for line in lines]
            found[_judged([one for one in ran if one.block >= 0], rules)] += 1
        print(f"{kind}, judged again: {', '.join(f'{n} {v}' for v, n in found.items())}")


def _judged(ran: list[Ran], rules: Rules) -> str:
    """The verdict on these processes, taken in their order."""
    title = next(title for title in ran[0].seconds if title.startswith(CELL))
    left = iter(range(len(ran) // 4))

    def take(pairs: int, keys: Sequence[Key]) -> Batch:
        series = Series()
        for _ in range(pairs // 2):
            first = 4 * next(left)
            block = Block(ran[first].block)
            times = [one.median(title, "latency") for one in ran[first : first + 4]]
            series.add(Series(block.pairs(times), block.controls(times)))
        return Batch({keys[0]: series})

    try:
        (row,) = decide(take, [(title, "latency")], rules)
    except StopIteration:
        return "need more pairs"
    return row.verdict.value


if __name__ == "__main__":
    main()
