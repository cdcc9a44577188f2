"""Run by torchrun: requests on micro models that are spread over its ranks, beside the same ones on
a model that is whole. What came of them goes to the file that is named, as JSON.

    python -m torch.distributed.run --standalone --nproc-per-node 2 tests/spread_models.py OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import torch
import torch.distributed as dist
from micro_models import MICRO, SIZE, affordable, sharpen

from tpprof import methods
from tpprof.methods.contract.errors import InputError
from tpprof.methods.contract.policies import Policy
from tpprof.methods.engine.ranks import RanksApartError
from tpprof.methods.engine.run import Trace, run
from tpprof.profiler.models.load import load
from tpprof.profiler.models.model import Model
from tpprof.profiler.models.shapes import Shape
from tpprof.profiler.run.comparison import Comparison
from tpprof.profiler.tensor_parallel.lockstep import Lockstep
from tpprof.profiler.workload import Preparation
from tpprof.reports.record.schema import Record
from tpprof.reports.record.spec import RunSpec, Workload

POLICIES: dict[str, tuple[Policy, ...]] = {"llava-next": ("rows", "maps", "published")}
"""Other than rows: what differs by policy differs in the engine."""
WORKLOAD = Workload(image_size=(SIZE,), new_tokens=3)


class Found(msgspec.Struct):
    """differences: by architecture, then by method and policy; "" for none. refused: by
    architecture, why it cannot be spread. record: of a comparison over the ranks. apart: which
    decisions rank 0 was told are not the same on all ranks. wrong: what it was told of rank 1."""

    differences: dict[str, dict[str, str]] = {}
    refused: dict[str, str] = {}
    record: Record | None = None
    apart: list[str] = []
    wrong: str = ""


DECISIONS: dict[str, tuple[list[int] | None, list[int] | None]] = {
    "the same": ([1, 5, 6, 8], [1, 5, 6, 8]),
    "all, on both": (None, None),
    "others of the same sums": ([1, 5, 6, 8], [2, 3, 7, 8]),
    "fewer": ([1, 5, 6], [1, 5]),
    "all, on one": (None, [1, 5]),
}
"""What each of two ranks keeps."""


def main() -> None:
    torch.set_num_threads(1)
    lockstep, found = Lockstep.begun(torch.device("cpu")), Found()
    for name, shape in MICRO.items():
        try:
            spread = made(shape, lockstep)
        except InputError as error:
            found.refused[name] = str(error)
            continue
        whole = made(shape) if lockstep.leads else None
        found.differences[name] = {
            f"{spec} {policy}": compared(whole, spread, spec, policy, lockstep)
            for spec in methods.names()
            for policy in POLICIES.get(name, ("rows",))
        }
        if name == "qwen2-vl":
            found.record = measured(spread, lockstep)
    found.apart = [name for name, both in DECISIONS.items() if apart(lockstep, both)]
    found.wrong = wrong_on_one(lockstep)
    if lockstep.leads:
        Path(sys.argv[1]).write_bytes(msgspec.json.encode(found))
    dist.destroy_process_group()


def apart(lockstep: Lockstep, both: tuple[list[int] | None, list[int] | None]) -> bool:
    own = both[lockstep.ranks.rank]
    try:
        index = None if own is None else torch.tensor([own])
        lockstep.ranks.require_same(index, torch.device("cpu"))
    except RanksApartError:
        return True
    return False


def wrong_on_one(lockstep: Lockstep) -> str:
    """What is said where rank 1 cannot make its model."""
    try:
        with lockstep.made_together():
            if not lockstep.leads:
                raise InputError("it has no room")
    except InputError as error:
        return str(error)
    return ""


def made(shape: Shape, lockstep: Lockstep | None = None) -> Model:
    ranks = lockstep.ranks if lockstep else None
    model = load(shape, device="cpu", dtype="float32", seed=1, ranks=ranks)
    sharpen(model)
    return model


def compared(
    whole: Model | None, spread: Model, spec: str, policy: Policy, lockstep: Lockstep
) -> str:
    """What a request gives otherwise over the ranks than on the whole model; told by rank 0."""
    method = affordable(methods.parse(spec))
    try:
        inputs = Preparation(spread, WORKLOAD).resized(method)()
        own = run(spread, inputs, method, attention=policy, verify=True)
    except InputError as error:
        return f"unsupported: {error}"
    bytes_held = lockstep.gathered((own.kv_bytes.prefill, own.kv_bytes.decode))
    if whole is None:
        return ""
    return difference(run(whole, inputs, method, attention=policy), own, bytes_held)


def difference(whole: Trace, own: Trace, bytes_held: list[tuple[list[int], list[int]]]) -> str:
    if [kept.tolist() for kept in whole.kept] != [kept.tolist() for kept in own.kept]:
        return "keeps other tokens"
    logits = torch.cat([whole.logits[:, None], whole.step_logits], 1)
    if not torch.allclose(
        logits, torch.cat([own.logits[:, None], own.step_logits], 1), rtol=1e-4, atol=1e-5
    ):
        return "gives other logits"
    for there, held in zip(
        (whole.kv_bytes.prefill, whole.kv_bytes.decode), zip(*bytes_held, strict=True), strict=True
    ):
        if [sum(layer) for layer in zip(*held, strict=True)] != there:
            return "holds other KV bytes"
    return ""


def measured(spread: Model, lockstep: Lockstep) -> Record | None:
    """A comparison on the spread model; its record, on rank 0."""
    spec = RunSpec.of(
        methods=["fastv:keep=18"], model=spread.name, image_size=(SIZE,), rounds=2,
        attention=["rows"], tensor_parallel=lockstep.ranks.size,
    )  # fmt: skip
    comparison = Comparison(spec, model=spread, lockstep=lockstep)
    if not lockstep.leads:
        comparison.follow()
        return None
    record = comparison.run()
    lockstep.end()
    return record


if __name__ == "__main__":
    main()
