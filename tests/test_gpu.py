"""What only a GPU shows. Skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from callables import pruned_llava
from micro_models import MICRO, PRUNING, SIZE, VIDEO, affordable, sharpen, skip_unsupported
from torchvision_here import needs_torchvision

import tpprof
from tpprof import methods
from tpprof.profiler.models.model import Model
from tpprof.profiler.run.comparison import Comparison
from tpprof.profiler.subjects.callables import Given
from tpprof.profiler.workload import Preparation
from tpprof.reports.analysis.phases import phase_rows
from tpprof.reports.analysis.summary import rows
from tpprof.reports.record.files import load, save
from tpprof.reports.record.schema import Cell, Record
from tpprof.reports.record.spec import RunSpec, Workload

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", params=list(MICRO))
def on_gpu(request: pytest.FixtureRequest) -> Model:
    model = tpprof.load(MICRO[request.param], device="cuda", dtype="float32", seed=1)
    sharpen(model)
    return model


@pytest.fixture
def no_syncs() -> Iterator[None]:
    """Any operation that makes the host wait for the device raises."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def test_a_shape_is_built_on_the_gpu_in_its_dtype() -> None:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model = tpprof.load("tiny", device="cuda", dtype="bfloat16")
    weights = sum(weight.numel() * 2 for weight in model.module.parameters())
    assert {weight.dtype for weight in model.module.parameters()} == {torch.bfloat16}
    assert torch.cuda.max_memory_allocated() - before < 2 * weights


def test_vanilla_equals_transformers(on_gpu: Model) -> None:
    inputs = tpprof.inputs(on_gpu, image_size=SIZE, layout="anyres")
    trace = tpprof.forward(on_gpu, inputs)
    with torch.no_grad():
        expected = on_gpu.module(**inputs).logits[:, -1]
    torch.testing.assert_close(trace.logits, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("spec", PRUNING)
def test_fixed_counts_never_wait_for_the_device(spec: str, no_syncs: None) -> None:
    torch.cuda.set_sync_debug_mode("default")
    model = tpprof.load(MICRO["llava-next"], device="cuda", dtype="bfloat16")
    inputs = tpprof.inputs(model, image_size=SIZE)
    method = methods.with_keep(methods.parse(spec), "1/2")
    solved: dict[str, float] = {}
    tpprof.forward(model, inputs, method, solved=solved)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    tpprof.forward(model, inputs, method, solved=solved, verify=False)


@pytest.mark.parametrize("spec", VIDEO)
def test_nor_do_those_for_videos(spec: str, no_syncs: None) -> None:
    torch.cuda.set_sync_debug_mode("default")
    model = tpprof.load(MICRO["llava-onevision"], device="cuda", dtype="bfloat16")
    inputs = tpprof.inputs(model, frames=8)
    method = methods.with_keep(methods.parse(spec), "1/2")
    once = tpprof.forward(model, inputs, method)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    again = tpprof.forward(model, inputs, method, verify=False)
    torch.cuda.set_sync_debug_mode("default")
    assert all(map(torch.equal, once.kept, again.kept))


@needs_torchvision
@pytest.mark.parametrize("size", [SIZE, (150, 129), (225, 83)], ids=str)
def test_pictures_are_processed_on_the_gpu_without_waits(
    on_gpu: Model, size: tuple[int, int], no_syncs: None
) -> None:
    torch.cuda.set_sync_debug_mode("default")
    workload = Workload(preprocess="device", image_size=size, batch_size=2)
    prepare = Preparation(on_gpu, workload)
    assert prepare.preprocessing is not None
    assert prepare.preprocessing.device.startswith("cuda")
    assert prepare.preprocessing.apart is not None
    assert prepare.preprocessing.apart <= 2.2
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    inputs = prepare()
    torch.cuda.set_sync_debug_mode("default")
    assert inputs["pixel_values"].device.type == "cuda"
    host = Preparation(on_gpu, Workload(image_size=size, batch_size=2))()
    apart = (inputs["pixel_values"].cpu() - host["pixel_values"]).abs().max()
    assert float(apart) <= 2.2 / 255 / 0.26


@pytest.mark.parametrize("spec", PRUNING)
def test_policies_agree_on_the_gpu(on_gpu: Model, spec: str) -> None:
    skip_unsupported(on_gpu, spec)
    inputs = tpprof.inputs(on_gpu, image_size=SIZE)
    method = methods.with_keep(methods.parse(spec), "1/2")
    by_rows = tpprof.forward(on_gpu, inputs, method, attention="rows")
    by_maps = tpprof.forward(on_gpu, inputs, method, attention="maps")
    assert all(map(torch.equal, by_rows.kept, by_maps.kept))


def test_a_comparison_has_all_that_a_gpu_tells(on_gpu: Model, tmp_path: Path) -> None:
    spec = RunSpec.of(
        methods=["fastv"],
        keep="1/2",
        rounds=6,
        runtime=["eager", "graph"],
        image_size=SIZE,
        new_tokens=4,
    )
    record = Comparison(spec, model=on_gpu).run()
    for cell in record.cells:
        assert not cell.error
        assert not cell.fallback
        assert cell.memory.allocator is not None
        assert set(cell.memory.allocator_by_phase) >= {"vision", "prefill", "head", "decode"}
        assert not [mark for sample in cell.samples for mark in sample.marks if "cuda" in mark]
        assert all(set(sample.host) >= {"vision", "prefill"} for sample in cell.samples)
        assert cell.energy.joules is not None or cell.energy.reason
    for row in rows(record):
        assert row.parts_sum is not None
        assert 0 < row.parts_sum.value <= 1.02
    decode = {
        (row.cell.method, row.cell.attention, row.cell.runtime): row.activity
        for row in phase_rows(record)
        if row.phase == "decode"
    }
    eager, graph = decode["vanilla", "rows", "eager"], decode["vanilla", "rows", "graph"]
    assert eager is not None
    assert graph is not None
    assert eager.launches is not None
    assert graph.launches is not None
    assert graph.launches < eager.launches / 4, "a replay is one launch"
    assert graph.busy_seconds is not None
    assert (eager.syncs, graph.syncs) == (0, 0)
    assert record.processes[0].gpu_before is not None
    save(record, tmp_path / "run.json")
    assert load(tmp_path / "run.json") == record


def counts(cell: Cell) -> tuple[object, ...]:
    """What a patched model and the method that does the same have in common."""
    assert not cell.error
    flops = {n: cell.counted_flops[n] - cell.table_flops.get(n, 0) for n in cell.counted_flops}
    return cell.tokens_per_layer, cell.kv_bytes_prefill, cell.kv_bytes_decode, flops


def beside_fastv(record: Record) -> Cell:
    """The callable, which counts as the method does where it computes the same."""
    cells = {(cell.method.partition(":")[0], cell.attention): cell for cell in record.cells}
    assert counts(cells["fork", "own"]) == counts(cells["fastv", "published"])
    return cells["fork", "own"]


def test_a_callable_has_all_that_a_gpu_tells() -> None:
    model = tpprof.load(MICRO["llava"], device="cuda", dtype="float32", seed=1)
    fork = pruned_llava.by_forward(
        tpprof.load(MICRO["llava"], device="cuda", dtype="float32", seed=1).module,
        pruned_llava.MICRO,
    )
    spec = RunSpec.of(
        methods=["fastv:keep=18,layer=2"],
        attention=["published"],
        callable=["fork=m:f"],
        rounds=6,
        image_size=SIZE,
        new_tokens=4,
    )
    found = beside_fastv(Comparison(spec, model=model, given=Given({"fork": fork})).run())
    assert found.memory.allocator is not None
    assert set(found.memory.allocator_by_phase) >= {"vision", "prefill", "head", "decode"}
    for sample in found.samples:
        assert 0 < sum(sample.parts) <= 1.02 * sample.latency
        assert set(sample.host) >= {"vision", "prefill", "decode"}
        assert not [mark for mark in sample.marks if "cuda" in mark]
    assert sum(part.launches or 0 for part in found.activity) > 0
    assert found.energy.joules is not None or found.energy.reason


def test_measure_takes_functions_on_the_gpu() -> None:
    def product(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return inputs["x"] @ inputs["x"]

    record = tpprof.measure(
        {"vanilla": product, "same": product},
        inputs={"x": torch.ones(512, 512)},  # on the host: what they are given is moved
        rounds=6,
        device="cuda",
        passes=["flops", "activity"],
    )
    for cell in record.cells:
        assert not cell.error
        assert cell.counted_flops == {"request": 2 * 512**3}
        assert [(part.phase, part.part) for part in cell.parts] == [
            ("transfer", "transfer"),
            ("request", "call"),
        ]
        assert cell.memory.allocator is not None
        assert cell.memory.allocator >= 2 * 512 * 512 * 4


def test_a_7b_patched_in_its_own_process_counts_as_fastv_does() -> None:
    spec = RunSpec.of(
        methods=["fastv:keep=320,layer=2"],
        attention=["rows", "published"],
        model="llava-next-7b",
        dtype="bfloat16",
        device="cuda",
        layout="anyres",
        callable=[f"fork={pruned_llava.__file__}:of_7b"],
        rounds=1,
        passes=["flops"],
    )
    record = Comparison(spec).run()
    fork = beside_fastv(record)
    assert fork.callable is not None
    assert fork.callable.dtype == "bfloat16"
    assert fork.callable.process == "own"
    assert fork.tokens_per_layer[2] == 320 + record.request.before + record.request.after
    assert fork.memory.allocator is not None
    assert len(fork.samples) >= 1


several_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@pytest.fixture(scope="module")
def laid_out() -> Model:
    """A model over the first two GPUs, in the precision of a CPU's."""
    pipeline = [torch.device("cuda", index) for index in range(2)]
    model = tpprof.load(MICRO["llava-next"], dtype="float32", seed=1, pipeline=pipeline)
    sharpen(model)
    return model


@several_gpus
@pytest.mark.parametrize("spec", ["vanilla", *PRUNING])
def test_a_pipeline_of_gpus_gives_what_one_gives(laid_out: Model, spec: str) -> None:
    whole = tpprof.load(MICRO["llava-next"], device="cuda", dtype="float32", seed=1)
    sharpen(whole)
    skip_unsupported(whole, spec)
    method = affordable(methods.parse(spec))
    before = torch.cuda.current_device()
    inputs = tpprof.inputs(whole, image_size=SIZE, new_tokens=3)
    one, over = (tpprof.forward(model, inputs, method) for model in (whole, laid_out))
    assert torch.cuda.current_device() == before
    assert [kept.tolist() for kept in one.kept] == [kept.tolist() for kept in over.kept]
    assert one.kv_bytes == over.kv_bytes
    for name in ("logits", "step_logits"):
        logits, expected = getattr(over, name).cpu(), getattr(one, name).cpu()
        torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-4)


@several_gpus
def test_a_comparison_over_gpus_tells_of_each(laid_out: Model) -> None:
    spec = RunSpec.of(methods=["fastv:keep=18"], rounds=6, image_size=SIZE, new_tokens=4)
    record = Comparison(spec, model=laid_out).run()
    assert [part.device for part in record.model.pipeline] == ["cuda:0", "cuda:1"]
    for cell in record.cells:
        assert not cell.error
        assert len({one.uuid for one in cell.memory.devices}) == 2
        peaks = [one.allocator for one in cell.memory.devices]
        assert all(
            peak is not None and peak > 4 * part.parameters
            for peak, part in zip(peaks, record.model.pipeline, strict=True)
        )
        assert "the request runs on 2" in cell.energy.reason
        moves = [place for place, part in enumerate(cell.parts) if part.part == "move"]
        assert moves
        assert all(sample.parts[place] > 0 for sample in cell.samples for place in moves)
    for row in rows(record):
        assert row.parts_sum is not None
        assert 0 < row.parts_sum.value <= 1.02
