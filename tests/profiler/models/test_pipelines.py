"""What lies on which device of a pipeline, what of it is refused, and what a record says of it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from micro_models import MICRO, SIZE
from placed_tensors import Devices

from tpprof.methods import parse
from tpprof.methods.engine.ledger import planned
from tpprof.profiler.cost import memory
from tpprof.profiler.cost.planning import Planner
from tpprof.profiler.models.errors import ModelError
from tpprof.profiler.models.load import load
from tpprof.profiler.models.registry import known_shapes
from tpprof.profiler.models.shapes import ShapeError
from tpprof.profiler.models.weights.pipeline import devices_of, parts_of
from tpprof.profiler.run import comparison, memory_limit
from tpprof.profiler.run.comparison import Comparison
from tpprof.reports.record.spec import ModelSpec, OptionError, RunSpec, Workload
from tpprof.reports.text.sentences import header
from tpprof.reports.text.table7 import table7

DEVICES = tuple(torch.device("cpu", index) for index in range(3))
TIED = replace(MICRO["llava"], text=replace(MICRO["llava"].text, tied=True))


@pytest.mark.parametrize("name", MICRO)
def test_parts_are_what_the_devices_hold(name: str) -> None:
    with Devices():
        model = load(MICRO[name], dtype="float32", pipeline=DEVICES)
    weights = list(model.module.parameters())
    for part, device in zip(parts_of(model.shape, 3), DEVICES, strict=True):
        assert part.parameters == sum(w.numel() for w in weights if w.device == device)
        assert {model.devices[layer] for layer in part.layers} == {device}


@pytest.mark.parametrize("shape", [*MICRO.values(), TIED], ids=lambda shape: shape.name)
def test_the_fullest_device_holds_as_little_as_can_be(shape: object) -> None:
    assert isinstance(shape, type(TIED))
    parts, text = parts_of(shape, 3), shape.text
    assert [len(part.layers) for part in parts_of(shape, 1)] == [text.layers]
    assert sum(part.parameters for part in parts) == shape.parameters
    outside = [part.parameters - len(part.layers) * text.layer_parameters for part in parts]
    ways = itertools.product(range(1, text.layers + 1), repeat=3)
    best = min(
        max(own + count * text.layer_parameters for own, count in zip(outside, way, strict=True))
        for way in ways
        if sum(way) == text.layers
    )
    assert max(part.parameters for part in parts) == best


def test_more_devices_than_layers_are_refused() -> None:
    with pytest.raises(ShapeError, match="has 8 decoder layers, fewer than 9"):
        parts_of(MICRO["llava"], 9)


def test_plans_are_those_of_the_fullest_device() -> None:
    whole, over = (
        Planner("qwen2-vl-72b", Workload(), pipeline=devices).plan(parse("fastv"))
        for devices in (1, 4)
    )
    assert whole.peak_bytes is not None
    assert over.peak_bytes is not None
    assert whole.weight_bytes is not None
    assert over.weight_bytes is not None
    assert 0.25 * whole.peak_bytes < over.peak_bytes < 0.3 * whole.peak_bytes
    assert 0.25 * whole.weight_bytes <= over.weight_bytes < over.peak_bytes
    assert (over.flops, over.kv_bytes) == (whole.flops, whole.kv_bytes)


def test_the_caches_of_a_plan_are_those_of_the_layers_on_each_device() -> None:
    """With a long answer, caches are most of what a request takes."""
    shape = replace(known_shapes()["tiny-llava"])
    planner = Planner(shape.name, Workload(batch_size=64, new_tokens=2000), dtype="float32")
    request = planner.request
    ledger = planned(parse("vanilla").plan(request), request, "rows")
    caches = 4 * 2 * shape.text.kv_width * 64 * ledger.decode_keys[-1][0]
    for part in parts_of(shape, 2):
        weights = memory.weight_bytes(shape, 4, part)
        held = memory.peak_bytes(shape, request, ledger, 4, part) - weights
        assert caches * len(part.layers) < held
        if not part.head:  # which keeps the logits of all steps
            assert held < 1.4 * caches * len(part.layers)


@pytest.mark.parametrize(
    ("spec", "wrong"),
    [
        (ModelSpec(pipeline=2, device="cpu"), "pipeline takes the first GPUs: give device cuda"),
        (ModelSpec(pipeline=2, device="cuda:1"), "pipeline takes the first GPUs"),
        (ModelSpec(pipeline=3), "pipeline wants 3 GPUs, and there are 2"),
    ],
)
def test_devices_that_are_not_there_are_refused(
    spec: ModelSpec, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(OptionError, match=wrong):
        devices_of(spec)
    assert devices_of(ModelSpec(pipeline=2)) == (
        torch.device("cuda", 0),
        torch.device("cuda", 1),
    )


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"runtime": ["graph"]}, "pipeline runs eagerly: leave runtime out"),
        ({"callable": ["torch:ones"]}, "pipeline lays out models of tpprof's, and no callable"),
    ],
)
def test_what_a_pipeline_cannot_do_is_refused(options: dict[str, object], wrong: str) -> None:
    with pytest.raises(OptionError, match=wrong):
        Comparison(RunSpec.of(methods=["fastv"], model="tiny", pipeline=2, **options))


def test_a_model_that_is_one_already_is_refused_the_same() -> None:
    spec = RunSpec.of(methods=["fastv"], runtime=["graph"], image_size=(SIZE,))
    with Devices():
        model = load(MICRO["llava"], dtype="float32", pipeline=DEVICES)
        with pytest.raises(OptionError, match="pipeline runs eagerly: leave runtime out"):
            Comparison(spec, model=model)


def test_ranks_and_a_pipeline_exclude_each_other() -> None:
    with pytest.raises(OptionError, match="pipeline and tensor_parallel exclude each other"):
        RunSpec.of(methods=["fastv"], pipeline=2, tensor_parallel=2)


def test_weights_that_one_device_does_not_hold_are_refused_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shape = MICRO["llava"]
    room = {str(device): 2**40 for device in DEVICES} | {"cpu:1": 1000}
    monkeypatch.setattr(
        "tpprof.profiler.models.device_memory.device_memory", lambda device: room[str(device)]
    )
    monkeypatch.setattr(
        "tpprof.profiler.models.load.drawn", lambda *_, **__: pytest.fail("it was made")
    )
    with pytest.raises(ModelError, match=r"micro-llava needs .* and cpu:1 has 0.0 GiB"):
        load(shape, dtype="float32", pipeline=DEVICES)


def test_a_request_that_one_device_does_not_hold_is_refused_before_the_model_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    room = {"cuda:0": 2**40, "cuda:1": 2**28}
    monkeypatch.setattr(memory_limit, "device_memory", lambda device: room[str(device)])
    monkeypatch.setattr(comparison, "load", lambda *_, **__: pytest.fail("it was loaded"))
    spec = RunSpec.of(methods=["fastv"], model="tiny", pipeline=2, batch_size=512)
    with pytest.raises(Exception, match=r"cuda:1 has 0 GiB: .*or give --pipeline more GPUs"):
        Comparison(spec)


def test_a_comparison_tells_of_each_device() -> None:
    spec = RunSpec.of(
        methods=["fastv:keep=18"], image_size=(SIZE,), rounds=1, attention=["rows"],
        new_tokens=2, passes=("energy", "flops"),
    )  # fmt: skip
    with Devices():
        model = load(MICRO["llava-next"], dtype="float32", pipeline=DEVICES)
        record = Comparison(spec, model=model).run()
    assert [cell.error for cell in record.cells] == ["", ""]
    parts = record.model.pipeline
    assert [part.device for part in parts] == ["cpu:0", "cpu:1", "cpu:2"]
    assert sum(part.layers for part in parts) == record.model.layers
    assert sum(part.parameters for part in parts) == record.model.parameters
    for cell in record.cells:
        moves = [part.index for part in cell.parts if part.part == "move"]
        assert moves == [parts[0].layers, parts[0].layers + parts[1].layers]
        for phase in ("prefill", "head"):
            planned_flops = sum(one.flops for one in cell.cost if one.phase == phase)
            assert cell.counted_flops[phase] == planned_flops
    assert "a pipeline (cpu:0: " in header(record)[-1]
    headings = [column.heading for column in table7(record).columns if column.shown]
    assert "memory by\ndevice" in headings
