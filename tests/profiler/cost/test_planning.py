"""Plans: budgets looked for, conventions, memory against the allocator's, and the table."""

from __future__ import annotations

import functools
import importlib
import json
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from command import in_this_process
from micro_models import load
from record_builders import cell, record
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

import tpprof
from tpprof import methods
from tpprof.methods.contract.errors import InputError
from tpprof.methods.contract.policies import Policy
from tpprof.methods.engine.ledger import planned
from tpprof.profiler.commands.flops import notes, plan_table, schedule
from tpprof.profiler.commands.options import Format
from tpprof.profiler.commands.output import print_table
from tpprof.profiler.cost import as_record, memory, total
from tpprof.profiler.cost.conventions import CONVENTIONS, convention_named
from tpprof.profiler.cost.planning import Planned, Planner, Wanted
from tpprof.profiler.machine.calibration import named
from tpprof.profiler.models.geometry import positions
from tpprof.profiler.models.model import Model
from tpprof.profiler.models.pictures import PictureError
from tpprof.profiler.models.registry import known_shapes
from tpprof.profiler.workload import Preparation
from tpprof.reports.analysis.roofline import part_seconds
from tpprof.reports.record.spec import Workload


def planner(model: str = "llava-next-7b", **options: object) -> Planner:
    return Planner(model, Workload(), **options)  # type: ignore[arg-type]


def one(spec: str, **options: object) -> Planned:
    return planner(**options).plan(methods.parse(spec))  # type: ignore[arg-type]


def test_a_plan_on_a_named_device_has_floor_memory_and_batch() -> None:
    vanilla = one("vanilla", peaks=named("h100"))
    assert vanilla.floor_speedup == 1.0
    assert vanilla.floor_seconds is not None
    # 22.3 TMACs in 16 bits at 989.4 TFLOP/s, less the half of attention that causality masks.
    assert 0.040 < vanilla.floor_seconds < 2 * 22.4e12 / 989.4e12 + 0.010
    assert vanilla.weight_bytes == pytest.approx(7.06e9 * 2, rel=0.01)
    assert vanilla.largest_batch is not None
    at_most = planner(peaks=named("h100"), model="llava-next-7b")
    whole = Workload(batch_size=vanilla.largest_batch)
    fits = Planner("llava-next-7b", whole).plan(methods.parse("vanilla")).peak_bytes
    over = Workload(batch_size=vanilla.largest_batch + 1)
    too_much = Planner("llava-next-7b", over).plan(methods.parse("vanilla")).peak_bytes
    assert at_most.peaks is not None
    assert at_most.peaks.memory_bytes is not None
    assert fits is not None
    assert too_much is not None
    assert fits <= at_most.peaks.memory_bytes < too_much


def test_a_model_that_does_not_fit_says_so() -> None:
    rows = planner("qwen2-vl-72b", peaks=named("h100")).table(["fastv"], "0.25")
    assert rows[1].largest_batch == 0
    assert plan_table(rows, named("h100"), []).lines()[1][-1] == "none fits"


def test_without_a_device_there_is_no_floor() -> None:
    row = one("fastv")
    assert row.floor_seconds is row.floor_speedup is row.largest_batch is None
    assert row.peak_bytes is not None


@pytest.mark.parametrize("spec", ["fastv", "sparsevlm", "pooling", "mustdrop"])
def test_the_largest_budget_for_a_speedup_is_found(spec: str) -> None:
    plans = planner(peaks=named("h100"))
    found = plans.solve(methods.parse(spec), Wanted(speedup=2.5))
    assert found.speedup is not None
    assert found.speedup >= 2.5
    keep = methods.parse(found.method).keep  # type: ignore[attr-defined]
    more = plans.plan(methods.with_keep(methods.parse(spec), str(keep + 1)))
    assert more.speedup is not None
    assert more.speedup < 2.5


def test_the_largest_budget_for_a_memory_is_found() -> None:
    plans = planner()
    limit = 14.0 * 2**30
    found = plans.solve(methods.parse("fastv"), Wanted(memory_bytes=limit))
    keep = methods.parse(found.method).keep  # type: ignore[attr-defined]
    more = plans.plan(methods.with_keep(methods.parse("fastv"), str(keep + 1)))
    assert found.peak_bytes is not None
    assert more.peak_bytes is not None
    assert found.peak_bytes <= limit < more.peak_bytes


def test_a_wish_that_no_budget_meets_is_told() -> None:
    plans = planner(peaks=named("h100"))
    found = plans.solve(methods.parse("fastv"), Wanted(speedup=1000))
    assert found.method == "fastv:keep=1"
    assert found.note.startswith("no budget gives a speed-up of 1000x")
    assert not found.met
    full = plans.solve(methods.parse("fastv"), Wanted(speedup=0.5))
    assert (full.method, full.met) == ("fastv:keep=2880", True)


def test_what_is_not_known_is_not_called_impossible() -> None:
    published = planner(attention="published")
    found = published.solve(methods.parse("fastv"), Wanted(memory_bytes=2**36))
    assert not found.met
    assert "cannot be planned: peak memory is not known under published" in found.note
    dependent = methods.parse("mustdrop:global_threshold=0.001")
    assert "depends on the data" in planner().solve(dependent, Wanted(speedup=2)).note


def test_a_budget_that_is_looked_for_must_not_be_given() -> None:
    for specs, keep in ((["fastv:keep=320"], None), (["fastv"], "100")):
        with pytest.raises(InputError, match="leave keep out"):
            planner().table(specs, keep, Wanted(speedup=2))
    _, vanilla = planner().table(["vanilla:tag=a"], None, Wanted(speedup=2))
    assert not vanilla.met
    assert "no budget" in vanilla.note


def test_a_plan_takes_one_policy() -> None:
    with pytest.raises(InputError, match="one policy"):
        planner(attention="rows,maps")
    with pytest.raises(InputError, match="known: float32"):
        planner(dtype="int3")


def test_a_sweep_is_a_curve_over_budgets() -> None:
    rows = planner().table(["fastv", "vanilla"], None, Wanted())
    assert [row.method for row in rows[:3]] == ["vanilla", "fastv:keep=1/1", "fastv:keep=1/2"]
    flops = [row.flops for row in rows]
    assert flops[1] == pytest.approx(flops[0], rel=1e-6), "all but the row that it reads"
    assert sorted(flops[1:], reverse=True) == flops[1:]  # type: ignore[type-var]
    specs = [methods.parse(row.method) for row in rows]
    assert len(set(specs)) == len(rows), "each row can be asked for again"
    rows = planner().table(["sparsevlm"], None, Wanted())
    unmet = next(row for row in rows if row.method == "sparsevlm:keep=1/36")
    assert unmet.flops is None
    assert unmet.note.startswith("80 of 2880 visual tokens cannot be the mean"), (
        "it is told, not dropped"
    )


def test_conventions_give_what_their_sources_give() -> None:
    """The shares worked out by hand in the analysis of Table 7: 60 text tokens, budget 320."""
    plans = planner(conventions=list(CONVENTIONS.values()))
    vanilla, fastv, sparsevlm = plans.table(["fastv", "sparsevlm"], "320")
    shares = {
        name: [100 * row.counted[name] / vanilla.counted[name] for row in (fastv, sparsevlm)]
        for name in CONVENTIONS
    }
    assert shares["sparsevlm"] == pytest.approx([17.25, 15.21], abs=0.02)
    assert shares["fastv"][0] == pytest.approx(16.97, abs=0.02)
    assert shares["paper-kv"] == pytest.approx([100 / 9, 100 / 9])
    assert vanilla.counted["default"] == vanilla.flops
    assert vanilla.counted["prefill"] == vanilla.prefill_flops
    assert vanilla.counted["causal"] < vanilla.counted["default"]
    assert vanilla.counted["paper-kv"] == pytest.approx(1512.0e6)
    assert fastv.counted["paper-kv"] == pytest.approx(168.0e6)
    assert vanilla.counted["sparsevlm"] == pytest.approx(21.3e12, rel=0.005)
    with pytest.raises(InputError, match="known: default, prefill"):
        convention_named("mine")


def allocated_peak(model: Model, method: methods.Method, policy: Policy, **options: Any) -> int:
    """The most that torch's CPU allocator held during one request, weights not counted."""
    inputs = tpprof.inputs(model, **options)
    tpprof.forward(model, inputs, method, attention=policy, verify=False)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        tpprof.forward(model, inputs, method, attention=policy, verify=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(path))
        events = json.loads(path.read_bytes())["traceEvents"]
    moves = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e.get("name") == "[memory]")
    held = torch.tensor([size for _, size in moves]).cumsum(0).max()
    return int(held) + sum(tensor.nbytes for tensor in inputs.values())


def estimated_peak(model: Model, method: methods.Method, policy: Policy, **options: Any) -> int:
    """The same by formula."""
    request = tpprof.inputs(model, **options).request
    ledger = planned(method.plan(request), request, policy)
    itemsize = model.dtype.itemsize
    whole = memory.peak_bytes(model.shape, request, ledger, itemsize)
    return whole - memory.weight_bytes(model.shape, itemsize)


@pytest.mark.parametrize("policy", ["rows", "maps"])
@pytest.mark.parametrize("spec", ["vanilla", "fastv", "sparsevlm", "mustdrop"])
@pytest.mark.parametrize("name", ["tiny-llava", "tiny-qwen2-vl"])
def test_the_estimated_peak_is_what_the_allocator_held(
    name: str, spec: str, policy: Policy
) -> None:
    model, method = loaded(name), methods.parse(spec)
    held = allocated_peak(model, method, policy)
    assert held <= estimated_peak(model, method, policy) <= 1.2 * held
    weights = sum(weight.nbytes for weight in model.module.parameters())
    assert memory.weight_bytes(model.shape, 4) == pytest.approx(weights, rel=0.001)


LONG_TEXT = {"visual_tokens": 400, "text_tokens": (5, 600)}


@pytest.mark.parametrize(
    ("name", "dtype", "policy", "spec", "options"),
    [
        ("tiny-llava", "float32", "rows", "fastv", {"batch_size": 2}),
        ("tiny-llava", "bfloat16", "maps", "fastv", {}),
        ("tiny-llava", "float16", "maps", "fastv", LONG_TEXT),
        ("tiny-llava", "bfloat16", "maps", "sparsevlm", LONG_TEXT),
        ("tiny-llava", "bfloat16", "rows", "sparsevlm", LONG_TEXT),
        ("tiny-qwen2-vl", "bfloat16", "maps", "fastv", LONG_TEXT),
        ("tiny-qwen2-vl", "bfloat16", "maps", "mustdrop", {}),
        ("tiny-qwen2-vl", "bfloat16", "maps", "mustdrop", {"batch_size": 2}),
        ("tiny-qwen2.5-vl", "float32", "rows", "vanilla", {}),
        ("tiny-qwen3-vl", "float32", "rows", "vanilla", {}),
        ("tiny-qwen2.5-vl", "bfloat16", "maps", "mustdrop", {"batch_size": 2}),
        ("tiny-qwen3-vl", "bfloat16", "maps", "mustdrop", {"batch_size": 2}),
        ("tiny-internvl", "float32", "rows", "fastervlm", {"image_size": ((448, 448),)}),
        ("tiny-internvl", "float32", "maps", "mustdrop", {"image_size": ((448, 448),)}),
        ("tiny-llava-onevision", "float32", "rows", "fastervlm", {"image_size": ((384, 700),)}),
        ("tiny-llava-onevision", "bfloat16", "maps", "fastv", {"frames": 4}),
        ("tiny-llava", "float32", "rows", "fastv", {"visual_tokens": 16, "new_tokens": 40}),
        ("tiny-llava", "bfloat16", "rows", "fastv", {"visual_tokens": 64, "new_tokens": 60}),
    ],
    ids=str,
)
def test_the_estimate_errs_high(
    name: str, dtype: str, policy: Policy, spec: str, options: dict[str, Any]
) -> None:
    """In half precision a map takes its softmax in float32, beside the scores."""
    model, method = loaded(name, dtype), methods.parse(spec)
    held = allocated_peak(model, method, policy, **options)
    assert held <= estimated_peak(model, method, policy, **options) <= 1.3 * held


@pytest.mark.parametrize(
    ("family", "name"),
    [("clip", "tiny"), ("siglip", "tiny-llava-onevision"), ("internvl", "tiny-internvl")],
)
def test_a_maps_softmax_is_as_wide_as_the_tower_is_said_to_take_it(family: str, name: str) -> None:
    """In float32, or in the type of its states."""
    home = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    shape = known_shapes()[name]
    states, seen = torch.rand(1, 1, 2, 4, dtype=torch.bfloat16), set[torch.dtype]()

    class Softmax(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            out = func(*args, **(kwargs or {}))
            if func._schema.name == "aten::_softmax":
                seen.add(out.dtype)
            return out

    module = torch.nn.Module().eval()
    with Softmax():
        home.eager_attention_forward(module, states, states, states, None, scaling=1.0)
    assert seen == {torch.float32 if shape.vision.wide_softmax else torch.bfloat16}


def test_long_answers_need_memory_for_their_cache() -> None:
    def peak(new_tokens: int) -> float:
        plans = Planner("llava-1.5-7b", Workload(new_tokens=new_tokens))
        found = plans.plan(methods.parse("vanilla")).peak_bytes
        assert found is not None
        return found

    token = 2 * 32 * 4096 * 2
    logits = 2 * 32064 * 2  # of each step, twice
    assert peak(2048) - peak(1024) == pytest.approx(
        memory.MARGIN * 1024 * (token + logits), rel=0.02
    )


def test_the_largest_shape_is_planned_within_little_memory() -> None:
    program = (
        "import re, sys; sys.argv = ['tpprof', 'flops', 'fastv', '--model', 'qwen2-vl-72b',"
        " '--device', 'b200', '--sweep']\n"
        "from tpprof.profiler.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end\n"
        "peak = int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) * 1024\n"
        "assert peak < 1e9, peak; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "fastv:keep=1/9" in done.stdout


def test_table_7_stands_beside_ours(capsys: pytest.CaptureFixture[str]) -> None:
    script = runpy.run_path(str(Path(tpprof.__file__).parent / "benchmarks" / "table7.py"))
    table = script["flops"](Workload(text_tokens=(35, 35)))
    line = next(line for line in table.splitlines() if "fastv:layer=3,keep=55" in line)
    assert "12.8 %" in line.split("|")[-3], "by SparseVLM's counter, as printed in the paper"
    assert "| mustdrop | 168.0 | 168.0 | 147.8 |" in script["kv"](Workload())
    run = record(
        cell("vanilla", "rows", 2.0, 1000),
        cell("fastv", "maps", 1.6, 200),
        cell("fastv", "rows", 1.0, 200),
    )
    ratios = script["latency"](run)
    assert "| fastv | 0.50 | 0.80 (0.80 to 0.80) | 0.50 (0.50 to 0.50) | 20.0 % |" in ratios
    assert "| mustdrop | 0.65 | n/a | n/a | n/a |" in ratios


@functools.cache
def loaded(name: str, dtype: str = "float32") -> Model:
    return tpprof.load(name, device="cpu", dtype=dtype)


def test_released_code_has_no_estimate() -> None:
    assert one("sparsevlm", attention="published").peak_bytes is None
    assert one("vanilla", attention="published").peak_bytes is not None


def test_schedules_are_told_in_runs() -> None:
    assert schedule([2880, 2880, 320, 320, 64]) == "0-1: 2880, 2-3: 320, 4: 64"
    assert schedule(None) == "n/a"


@pytest.mark.parametrize("form", ["table", "csv", "json", "markdown"])
def test_the_table_prints_in_every_format(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    conventions = [convention_named("fastv"), convention_named("paper-kv")]
    plans = planner(peaks=named("h100"), conventions=conventions)
    table = plan_table(plans.table(["fastv"], "320"), plans.peaks, conventions)
    print_table(table, Format(form))
    printed = capsys.readouterr().out
    assert "fastv:keep=320" in printed
    assert "0-1: 2880, 2-31: 320" in printed or form == "json"
    if form == "json":
        rows = json.loads(printed)
        assert rows[1]["visual_per_layer"] == [2880] * 2 + [320] * 30
        assert rows[1]["counted"]["paper-kv"] == pytest.approx(168e6)


@pytest.mark.parametrize("layer", [1, 2, 16])
def test_pruning_touches_the_flops_of_the_layers_behind_it(layer: int) -> None:
    """Against the FLOPs of LLaVA-NeXT-7B, by hand: 32 layers of width 4096 and FFNs of 11008 over
    2940 tokens: of all layers but the first `layer`, and of the decode step with its head."""
    width, ffn, length, vocabulary = 4096, 11008, 2940, 32064
    weights = 4 * width * width + 3 * width * ffn
    inside = 2 * length * weights + 4 * length**2 * width
    step = 32 * (2 * weights + 4 * (length + 1) * width) + 2 * width * vocabulary
    plan = Planner("llava-next-7b", Workload())
    row = plan.plan(methods.parse(f"fastv:layer={layer},keep=320"))
    touched = (32 - layer) * inside + step
    assert row.touched_flops == pytest.approx(touched / plan.vanilla.flops, rel=1e-12)
    assert row.touched_floor is None
    told = notes([plan.plan(methods.parse("vanilla")), row], None, [])
    share = touched / plan.vanilla.flops
    assert (
        f"Of vanilla's FLOPs pruning can touch {share * 100:.1f} % ({row.method}); the rest "
        "stays as it is (Amdahl)."
    ) in told


def test_what_is_touched_of_the_floor_needs_a_device() -> None:
    """The floors of phases and layers, each by itself: those of prefill behind layer 1, and
    decode."""
    plan = Planner("llava-next-7b", Workload(), peaks=named("h100"))
    row = plan.plan(methods.parse("fastv:layer=2,keep=320"))
    assert plan.peaks is not None
    parts = part_seconds(plan.peaks, as_record(plan.vanilla.items), "bfloat16")
    touched = [
        least
        for (phase, _, index), least in parts.items()
        if phase == "decode" or (phase == "prefill" and index is not None and index >= 2)
    ]
    assert row.touched_floor == pytest.approx(sum(touched) / sum(parts.values()))
    vanilla = plan.plan(methods.parse("vanilla"))
    assert (vanilla.touched_flops, vanilla.touched_floor) == (0, 0)
    told = notes([vanilla, row], plan.peaks, [])
    assert any(line.startswith("Of vanilla's floor pruning can touch") for line in told)


def test_a_method_of_the_tower_touches_what_is_behind_it_there() -> None:
    """VisionZip drops before the last tower layer that runs: by hand, of the tower all FLOPs stay
    but those of that layer (577 patches of width 1024) and of the projector, and the head does."""
    plan = Planner("llava-1.5-7b", Workload())
    row = plan.plan(methods.parse("visionzip:keep=64"))
    vision, head = (total(plan.vanilla.items, phase).flops for phase in ("vision", "head"))
    projector = 2 * 576 * (1024 * 4096 + 4096 * 4096)
    last = 2 * 577 * (4 * 1024**2 + 2 * 1024 * 4096) + 4 * 577**2 * 1024
    left = vision - projector - last + head
    assert row.touched_flops == pytest.approx(1 - left / plan.vanilla.flops, rel=1e-12)


@pytest.mark.parametrize("new_tokens", [1, 128])
def test_no_floor_speedup_passes_the_bound(new_tokens: int) -> None:
    workload = Workload(new_tokens=new_tokens)
    plan = Planner("llava-next-7b", workload, peaks=named("h100"))
    bound = plan.bound
    assert bound is not None
    listed = [plan.plan(methods.parse(f"fastv:layer=1,keep={keep}")) for keep in (1, 320)]
    least, usual = (row.floor_speedup for row in listed)
    assert least is not None
    assert usual is not None
    assert usual < least < bound
    assert least > 0.8 * bound, "one token in all layers but one comes near"
    assert Planner("llava-next-7b", workload).bound is None


def pictures(folder: Path) -> dict[str, Path]:
    """Files that begin as a picture does, and are none that a model can be given."""
    import numpy as np
    from PIL import Image

    whole = folder / "whole.png"
    Image.effect_noise((90, 60), 50).convert("RGB").save(whole)
    made = {"cut": folder / "cut.png", "float": folder / "float.tiff", "wide": folder / "wide.tiff"}
    made["cut"].write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    Image.fromarray(np.full((9, 9), 0.5, np.float32)).save(made["float"])
    Image.fromarray(np.full((9, 9), 10**6, np.int32)).save(made["wide"])
    return made


@pytest.mark.parametrize("kind", ["cut", "float", "wide"])
def test_a_picture_that_a_run_refuses_is_not_planned(kind: str, tmp_path: Path) -> None:
    file = pictures(tmp_path)[kind]
    with pytest.raises(PictureError) as planned:
        Planner("tiny-llava", Workload(image=str(file)))
    with pytest.raises(PictureError) as measured:
        tpprof.inputs(load("llava"), image=str(file))
    assert str(planned.value) == str(measured.value)


def test_what_is_done_to_a_picture_is_said(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGBA", (90, 60)).save(tmp_path / "a.png")
    plan = Planner("tiny-llava", Workload(image=str(tmp_path / "a.png"), image_size=(84, 84)))
    assert [line for line in plan.warnings if "transparency" in line]
    assert [line for line in plan.warnings if "resized from 90x60" in line]


@pytest.mark.parametrize("synthetic", [None, 40])
def test_positions_are_those_of_the_request(model: Model, synthetic: int | None) -> None:
    workload = Workload(
        image_size=(84, 168), visual_tokens=synthetic, text_tokens=(5, 7), new_tokens=4
    )
    request = Preparation(model, workload).request
    inputs = tpprof.inputs(
        model, image_size=(84, 168), visual_tokens=synthetic, text_tokens=(5, 7), new_tokens=4
    )
    assert positions(model.shape, request) == inputs.next_position + 3


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("llava-1.5-7b", (35, 3400), ""),
        ("llava-1.5-7b", (35, 5000), "takes 5,612 positions, and llava-1.5-7b is made for 4,096"),
        ("llava-next-7b", (35, 2000), "takes 4,916 positions, and llava-next-7b is made for 4,096"),
        ("qwen2-vl-7b", (35, 20000), ""),
        ("qwen2-vl-7b", (35, 40000), "takes 40,060 positions, and qwen2-vl-7b is made for 32,768"),
    ],
)
def test_more_positions_than_the_model_has_are_said(
    name: str, text: tuple[int, int], told: str, tmp_path: Path
) -> None:
    plan = Planner(name, Workload(text_tokens=text))
    assert told in " ".join(plan.warnings)
    assert bool(told) == bool(plan.warnings)
    given = ["flops", "fastv", "--model", name, "--text-tokens", ",".join(map(str, text))]
    shown = in_this_process(*given, "--format", "markdown", cwd=tmp_path)
    assert told in shown.stdout + shown.stderr
    assert shown.returncode == 0
