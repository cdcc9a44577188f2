"""What measuring a callable costs: a patched model beside the engine's own method, in one run.

transformers' LLaVA, patched as FastV and as SparseVLM patch it, stands beside `fastv` with the same
budget, and unpatched beside vanilla, with the hooks that tell its parts and without. All share
their weights and one process; each ratio is that of `tpprof compare`: paired round by round, the
trimmed mean of logarithms with its studentised 95 % interval.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import sys
from pathlib import Path
from typing import Any

import torch

import tpprof
from tpprof.profiler.models.model import Model
from tpprof.profiler.run.comparison import Comparison
from tpprof.profiler.subjects.callables import Given
from tpprof.reports.analysis.by_round import by_round, latency, paired_speedup, seconds_in
from tpprof.reports.analysis.intervals import Estimate, speedup
from tpprof.reports.record.files import save
from tpprof.reports.record.schema import Cell, Record
from tpprof.reports.record.spec import RunSpec

sys.path.append(str(Path(__file__).parent.parent / "tests" / "callables"))

from pruned_llava import Pruning, by_class, by_forward  # type: ignore[import-not-found]

UNSEEN = "unseen"
"""transformers' own model behind a function that does not name it: no hooks."""
NEVER = 1e-9  # no interval is so narrow: time alone ends the rounds
WAYS = {"fastv_way": by_forward, "sparsevlm_way": by_class}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny-llava", help="a LLaVA or LLaVA-NeXT")
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    parser.add_argument("--keep", type=int, default=64, help="visual tokens from layer 2 on")
    parser.add_argument("--attention", default="published,rows", help="policies of ours")
    parser.add_argument("--new-tokens", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60.0, help="for all rounds")
    parser.add_argument("--rounds", type=int, help="so many, however long they take")
    parser.add_argument("--out", type=Path, help="where to save the record")
    options = parser.parse_args()
    if options.device in (None, "cpu"):
        torch.set_num_threads(1)
    model = tpprof.load(options.model, device=options.device, dtype=options.dtype)
    record = measured(model, options)
    if options.out:
        save(record, options.out)
    show(record, options.attention.split(","))


def measured(model: Model, options: argparse.Namespace) -> Record:
    request = tpprof.inputs(model, layout="anyres").request
    pruning = Pruning(request.before, request.visual, options.keep)
    length: dict[str, Any] = {"max_seconds": options.seconds, "target_ci": NEVER}
    if options.rounds:
        length = {"rounds": options.rounds}
    spec = RunSpec.of(
        methods=[ours(options.keep)],
        attention=options.attention.split(","),
        layout="anyres",
        new_tokens=options.new_tokens,
        **length,
        passes=["flops"],
        callable=[f"{name}=pruned_llava:{name}" for name in ("hooked", UNSEEN, *WAYS)],
    )
    objects = {"hooked": shared(model), UNSEEN: unseen(shared(model), options.new_tokens)}
    objects |= {name: patch(shared(model), pruning) for name, patch in WAYS.items()}
    print(
        f"{model.name} on {model.device}, {model.dtype}, {request.visual} visual tokens of which "
        f"{options.keep} stay, {options.new_tokens} new tokens"
    )
    return Comparison(spec, model=model, given=Given(objects)).run()


def ours(keep: int) -> str:
    return f"fastv:keep={keep},layer=2"


def shared(model: Model) -> Any:
    """A second model of the same weights, which may be patched."""
    module = model.module
    weights = itertools.chain(module.parameters(), module.buffers())
    return copy.deepcopy(module, {id(tensor): tensor for tensor in weights})


def unseen(module: Any, new_tokens: int) -> Any:
    """What a callable that is a model does, in a function."""

    def generate(inputs: Any) -> Any:
        count = {"min_new_tokens": new_tokens, "max_new_tokens": new_tokens}
        return module.generate(**inputs, do_sample=False, num_beams=1, use_cache=True, **count)

    return generate


def show(record: Record, policies: list[str]) -> None:
    cells = {(cell.method, cell.attention): cell for cell in record.cells}
    own = {method: cell for (method, _), cell in cells.items() if cell.callable is not None}
    pruned = {policy: cells[method, policy] for method, policy in cells if policy in policies}
    vanilla = record.cells[0]
    print(f"{len(vanilla.samples)} rounds, milliseconds of a request (median):")
    for cell in record.cells:
        width = latency(cell)
        print(f"{cell.method:22} {cell.attention:10} {text(width, 1e3)} ms {cell.error}{cell.note}")
    for way in WAYS:
        for policy, ours in pruned.items():
            compared(f"{way} / fastv under {policy}", own[way], ours)
    compared("transformers' own / engine's vanilla", own["hooked"], vanilla)
    compared("with hooks / without", own["hooked"], own[UNSEEN])
    print("\nequal:", *same(own["fastv_way"], pruned[policies[0]]), sep="\n  ")


def compared(name: str, first: Cell, second: Cell) -> None:
    """Time of `first` over `second`: of the request, and of each phase that both have."""
    print(f"\n{name:44} {text(paired_speedup(first, second))}")
    phases = dict.fromkeys(part.phase for part in first.parts)
    for phase in [each for each in phases if each in {part.phase for part in second.parts}]:
        one, other = (seconds(cell, phase) for cell in (first, second))
        ratio = speedup([(one[number], other[number]) for number in one if number in other])
        apart = sorted(one[number] - other[number] for number in one if number in other)
        print(f"  {phase:42} {text(ratio)}  {1e3 * apart[len(apart) // 2]:+.3f} ms")


def seconds(cell: Cell, phase: str) -> dict[int, float]:
    places = [number for number, part in enumerate(cell.parts) if part.phase == phase]
    return by_round(cell, seconds_in(places))


def same(fork: Cell, ours: Cell) -> list[str]:
    """What is counted of both, and whether it is the same."""

    def products(cell: Cell) -> int:
        return sum(cell.counted_flops.values()) - sum(cell.table_flops.values())

    counts = {
        "tokens entering the layers": (fork.tokens_per_layer, ours.tokens_per_layer),
        "KV bytes": (fork.kv_bytes_decode, ours.kv_bytes_decode),
        "FLOPs counted": (products(fork), products(ours)),
    }
    return [
        f"{what}: {'yes' if one == other else f'NO, {one} and {other}'}"
        for what, (one, other) in counts.items()
    ]


def text(estimate: Estimate | None, factor: float = 1.0) -> str:
    if estimate is None:
        return "n/a"
    value = f"{estimate.value * factor:.4g}"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} ({estimate.low * factor:.4g} to {estimate.high * factor:.4g})"


if __name__ == "__main__":
    main()
