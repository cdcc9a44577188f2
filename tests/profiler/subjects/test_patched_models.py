"""A patched LLaVA as a callable beside the engine's method that prunes as it does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from callables import pruned_llava
from micro_models import SIZE, load

import tpprof
from tpprof.methods import InputError
from tpprof.profiler.models.errors import ModelError
from tpprof.profiler.run.comparison import Comparison
from tpprof.profiler.subjects.callables import Given
from tpprof.reports.analysis.summary import rows
from tpprof.reports.record.schema import Cell, Record
from tpprof.reports.record.spec import OptionError, RunSpec

WAYS = ("fastv_way", "sparsevlm_way")
OURS = f"fastv:keep={pruned_llava.KEEP},layer={pruned_llava.LAYER}"


@pytest.fixture(scope="module")
def record() -> Record:
    names = ("plain", *WAYS, "lengths_differ")
    objects = {name: getattr(pruned_llava, name) for name in names}
    spec = RunSpec.of(
        methods=[OURS],
        attention=["maps"],
        image_size=SIZE,
        new_tokens=3,
        rounds=1,
        callable=[f"{name}=pruned_llava:{name}" for name in names],
    )
    return Comparison(spec, model=load("llava"), given=Given(objects)).run()


def cell(record: Record, method: str) -> Cell:
    return next(cell for cell in record.cells if cell.method == method)


def of_products(cell: Cell) -> dict[str, int]:
    """FLOPs by phase, without rotary tables, which each side makes as often as it likes."""
    flops = cell.counted_flops
    return {phase: flops[phase] - cell.table_flops.get(phase, 0) for phase in flops}


@pytest.mark.parametrize(("theirs", "ours"), [("plain", "vanilla"), *((way, OURS) for way in WAYS)])
def test_it_counts_as_the_engine_does_of_the_same_work(
    theirs: str, ours: str, record: Record
) -> None:
    """To the token, the byte and the FLOP: each side by means of its own."""
    fork, own = cell(record, theirs), cell(record, ours)
    assert fork.error == ""
    assert fork.tokens_per_layer == own.tokens_per_layer
    assert fork.visual_per_layer == own.visual_per_layer
    assert fork.kv_bytes_prefill == own.kv_bytes_prefill
    assert fork.kv_bytes_decode == own.kv_bytes_decode
    assert of_products(fork) == of_products(own)
    assert fork.kernels == own.kernels
    assert fork.generated_tokens == own.generated_tokens == 3


def test_its_row_has_what_is_known_and_says_what_is_not(record: Record) -> None:
    table = {row.cell.method: row for row in rows(record)}
    fork, own = table["fastv_way"], table[OURS]
    assert fork.flops_share == pytest.approx(own.flops_share)
    assert fork.kv_bytes == own.kv_bytes
    assert fork.latency is not None
    assert fork.speedup is not None
    assert (fork.promised, fork.claimed, fork.over_promise) == (None, None, None)
    assert "formulas" in fork.cell.missing["promised"]
    assert "lengths" in fork.cell.missing


def test_its_parts_are_told_apart_and_make_up_its_latency(record: Record) -> None:
    fork = cell(record, "fastv_way")
    spans = [(part.phase, part.part, part.index) for part in fork.parts]
    assert spans[:4] == [
        ("preprocess", "preprocess", None),
        ("vision", "tower", None),
        ("vision", "projector", None),
        ("embed", "embed", None),
    ]
    layers = [index for phase, part, index in spans if (phase, part) == ("prefill", "layer")]
    assert layers == list(range(8))
    assert [span for span in spans if span[0] == "decode"] == [
        ("decode", "token", 0),
        ("decode", "token", 1),
        ("decode", "end", None),
    ]
    sample = fork.samples[0]
    assert 0 < sum(sample.parts) <= sample.latency


def test_one_that_keeps_other_tokens_in_each_request_is_a_row_that_says_so(
    record: Record,
) -> None:
    error = cell(record, "lengths_differ").error
    assert error.startswith("it does not do the same in each request: tokens entering the decoder")
    assert "96 x2, 77 x6 at first" in error
    assert not cell(record, "lengths_differ").samples


@pytest.mark.parametrize("way", WAYS)
def test_the_engine_refuses_the_same_model_and_names_the_way(way: str) -> None:
    model = load("llava")
    patched = type(model)(
        getattr(pruned_llava, way)(),
        model.shape,
        backend=model.backend,
        image_processor=model.image_processor,
    )
    with pytest.raises(ModelError, match="--callable MODULE:FUNCTION"):
        tpprof.compare("fastv", model=patched, rounds=1, image_size=SIZE)


def beside_engine(architecture: str, **options: Any) -> list[Cell]:
    """The engine's vanilla, and transformers' own model as a callable."""
    model = load(architecture)
    spec = RunSpec.of(callable=["hf=m:f"], model="x", rounds=1, passes=["flops"], **options)
    return Comparison(spec, model=model, given=Given({"hf": model.module})).run().cells


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("llava", {"image_size": SIZE, "batch_size": 2}),
        ("llava-next", {"image_size": SIZE, "layout": "anyres"}),
        ("qwen2-vl", {"image_size": SIZE}),
        ("qwen2-vl", {"visual_tokens": 9}),
        ("qwen2.5-vl", {"image_size": SIZE}),
        ("qwen3-vl", {"image_size": SIZE}),
        ("llava-onevision", {"image_size": SIZE}),
        ("internvl", {"image_size": SIZE}),
        ("qwen2.5-vl", {"image_size": ((84, 84), (56, 112))}),
        ("qwen2-vl", {"image_size": SIZE, "frames": 4}),
    ],
    ids=str,
)
def test_transformers_own_model_counts_as_vanilla_does(
    architecture: str, options: dict[str, Any]
) -> None:
    own, theirs = beside_engine(architecture, **options)
    assert theirs.error == ""
    assert theirs.tokens_per_layer == own.tokens_per_layer
    assert theirs.visual_per_layer == own.visual_per_layer
    assert theirs.kv_bytes_decode == own.kv_bytes_decode
    assert of_products(theirs) == of_products(own)
    spans = {part.phase for part in theirs.parts}
    assert ("vision" in spans) == ("visual_tokens" not in options)


def test_a_layout_that_transformers_does_not_know_names_the_one_it_does() -> None:
    _, theirs = beside_engine("llava-next", image_size=SIZE)
    assert theirs.error.endswith("(transformers itself knows --layout anyres alone)")


def test_measure_takes_models_functions_and_what_makes_inputs() -> None:
    model = load("llava")
    made: list[int] = []

    def inputs() -> dict[str, torch.Tensor]:
        made.append(1)
        return dict(tpprof.inputs(model, image_size=SIZE))

    def forward(given: dict[str, torch.Tensor]) -> object:
        with torch.no_grad():
            return model.module(**given)

    forward.model = model.module  # type: ignore[attr-defined]
    record = tpprof.measure(
        {"mine": model.module, "vanilla": forward, "alone": lambda: torch.ones(3)},
        inputs=inputs,
        rounds=2,
        device="cpu",
        passes=False,
    )
    forwarded, generated, alone = record.cells
    assert [cell.method for cell in record.cells] == ["vanilla", "mine", "alone"]
    assert [cell.name for cell in record.cells] == ["vanilla", "mine", "alone"]
    assert [len(cell.samples) for cell in record.cells] == [2, 2, 2]
    assert generated.tokens_per_layer == forwarded.tokens_per_layer == [96] * 8
    assert generated.generated_tokens == 2
    assert ("preprocess", "preprocess") in {(p.phase, p.part) for p in generated.parts}
    assert [(p.phase, p.part) for p in alone.parts] == [("request", "call")]
    assert "let it name its model" in alone.missing["parts"]
    assert record.model.parameters is None
    assert made


@pytest.mark.parametrize("callables", [{}, [1], {"a=b": int}, {1: int}, {" ": int}], ids=str)
def test_what_has_no_name_is_refused(callables: Any) -> None:
    with pytest.raises(InputError, match=r"give callables by name|names no callable"):
        tpprof.measure(callables)


def test_options_of_a_request_are_refused_where_there_is_none() -> None:
    with pytest.raises(OptionError, match=r"image shapes a request of tpprof's"):
        tpprof.measure({"mine": lambda: torch.ones(3)}, image="missing.png")
