"""What tpprof itself costs, measured side by side in one run: ratios, never absolute claims.

Each pair runs in turns on the default small model; the ratio is that of `tpprof compare`: the
trimmed mean of paired ratios, with its studentised 95 % interval.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

import tpprof
from tpprof.methods.contract.method import Method
from tpprof.methods.contract.policies import Policy
from tpprof.methods.contract.spec import parse
from tpprof.methods.engine.context import no_lap
from tpprof.methods.engine.decoder import Inputs
from tpprof.methods.engine.run import run
from tpprof.profiler import cost
from tpprof.profiler.meters.clock import Stopwatch, now, wait_for
from tpprof.profiler.models.model import Model
from tpprof.reports.analysis.intervals import Estimate, median_interval, speedup
from tpprof.reports.record.files import save

METHODS = ("fastv", "fastv-alpha", "fastv-window", "sparsevlm", "mustdrop")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    model = tpprof.load(options.model)
    print(f"{model.name} on {model.device}, {model.dtype}, {options.rounds} rounds\n")

    small = tpprof.load("tiny-llava", device=model.device)
    for layout, name in (("anyres", options.model), ("flat", "tiny-llava")):
        subject = model if name == options.model else small
        against_transformers(subject, layout, options.rounds)
    instrumented_against_bare(small, options.rounds * 3)
    starts(options.rounds)
    rows_against_maps(model, max(7, options.rounds // 2))


def against_transformers(model: Model, layout: str, n: int) -> None:
    """Engine vanilla against the model's own forward: same inputs, same logits position."""
    inputs = tpprof.inputs(model, layout=layout, new_tokens=1)
    vanilla = parse("vanilla")

    def ours() -> None:
        run(model, inputs, vanilla, new_tokens=1)

    @torch.no_grad()
    def theirs() -> None:
        model.module(**inputs, use_cache=True, logits_to_keep=1)

    show(f"engine vanilla / transformers' forward, {model.name}", paired(model, ours, theirs, n))


def instrumented_against_bare(model: Model, n: int) -> None:
    """A request with a lap at every part against one without any."""
    inputs = tpprof.inputs(model)
    method, watch = parse("fastv"), Stopwatch(model.device)

    def instrumented() -> None:
        watch.start()
        run(model, inputs, method, lap=watch.lap)

    def bare() -> None:
        run(model, inputs, method, lap=no_lap)

    show(f"instrumented / bare, {model.name}", paired(model, instrumented, bare, n))


def starts(n: int) -> None:
    """How long the command takes where it measures nothing, against a Python that does nothing."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.json"
        save(tpprof.compare("random", model="tiny-llava", visual_tokens=64, rounds=6), path)
        for arguments in (["--help"], ["report", str(path)]):
            seconds = []
            for _ in range(n):
                began = now()
                call = f"sys.argv = ['tpprof', *{arguments!r}]; main()"
                program = f"import sys; from tpprof.profiler.cli import main; {call}"
                subprocess.run([sys.executable, "-c", program], stdout=subprocess.DEVNULL)
                seconds.append(now() - began)
            estimate = median_interval(seconds)
            assert estimate is not None
            print(f"tpprof {arguments[0]:45} {estimate.value:.2f} s (fastest {min(seconds):.2f} s)")


def rows_against_maps(model: Model, n: int) -> None:
    """Each method under both policies, beside the ratio of FLOPs."""
    inputs = tpprof.inputs(model)
    print("\nvision to last token: speed-up by FLOPs of the whole request, and measured")
    print(f"{'method':14} {'maps / rows time':>24} {'by FLOPs':>9} {'maps':>16} {'rows':>16}")
    for spec in METHODS:
        method = parse(spec)
        solved: dict[str, float] = {}
        promise = flops(model, "vanilla") / flops(model, spec)
        whole = request(model, inputs, parse("vanilla"), "rows", {})
        by_policy = {
            policy: request(model, inputs, method, policy, solved) for policy in ("maps", "rows")
        }
        gap = paired(model, by_policy["maps"], by_policy["rows"], n)
        gains = [paired(model, whole, by_policy[policy], n).value for policy in ("maps", "rows")]
        print(
            f"{spec:14} {text(gap):>26} {promise:8.2f}x "
            + " ".join(f"{gain:6.2f}x" for gain in gains)
        )


def request(
    model: Model,
    inputs: Inputs,
    method: Method,
    policy: Policy,
    solved: dict[str, float],
) -> Callable[[], object]:
    return lambda: run(model, inputs, method, attention=policy, solved=solved)


def flops(model: Model, spec: str) -> int:
    inputs, method = tpprof.inputs(model), parse(spec)
    trace = run(model, inputs, method)
    plan = method.plan(inputs.request)
    items = cost.items(model.shape, inputs.request, plan, trace.ledger, model.dtype.itemsize)
    return cost.total(items).flops


def paired(
    model: Model,
    first: Callable[[], object],
    second: Callable[[], object],
    rounds: int,
) -> Estimate:
    """Time of `first` over `second`, in turns, the order reversed every other round."""
    sides = (first, second)
    for side in sides:
        side()
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        gc.collect()
        for place in (0, 1) if number % 2 else (1, 0):
            wait_for(model.device)
            began = now()
            sides[place]()
            wait_for(model.device)
            seconds[place].append(now() - began)
    estimate = speedup(list(zip(*seconds, strict=True)))
    assert estimate is not None
    return estimate


def show(name: str, ratio: Estimate) -> None:
    print(f"{name:52} {text(ratio)}")


def text(ratio: Estimate) -> str:
    if ratio.low is None:
        return f"{ratio.value:.3f}"
    return f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"


if __name__ == "__main__":
    main()
