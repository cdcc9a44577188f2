"""Methods that change the picture: each cell has its own request, whose picture is made smaller on
the clock."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from micro_models import SIZE, load
from PIL import Image

from tpprof.methods import InputError, UnsupportedError, parse
from tpprof.profiler.cost.planning import Planner
from tpprof.profiler.gate import counting
from tpprof.profiler.machine.calibration import named
from tpprof.profiler.models.model import Model
from tpprof.profiler.run.cells import make_cells
from tpprof.profiler.run.comparison import Comparison
from tpprof.profiler.run.engine_cell import EngineCell
from tpprof.profiler.run.equalize import equalize
from tpprof.profiler.run.kept_tokens import TokenViewer
from tpprof.profiler.workload import Preparation
from tpprof.reports.record.schema import Record
from tpprof.reports.record.spec import RunSpec, Subject, Workload

RESIZED = "downsample:keep=2/3"
BOTH = f"{RESIZED}+random:keep=1/2,layer=2"
TOO_SMALL = "downsample:keep=1/9"
NOTE = "picture resized from 168x168 to 84x84 (width x height)"


@pytest.fixture
def prepare(llava_next: Model) -> Preparation:
    return Preparation(llava_next, Workload(image_size=SIZE, batch_size=2))


def cells(prepare: Preparation, *specs: str) -> list[EngineCell]:
    return make_cells([parse(spec) for spec in specs], ("rows",), ("eager",), prepare)


def test_the_picture_is_made_smaller_within_preprocess(
    prepare: Preparation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In each request, for each sample of the batch, and not for the other cells."""
    vanilla, cell = cells(prepare, RESIZED)
    whole, resize, seen = prepare.pictures[0].image, Image.Image.resize, list[Any]()

    def told(image: Image.Image, size: Any, *given: Any, **named: Any) -> Image.Image:
        if image is whole:
            seen.append((size, *given))
        return resize(image, size, *given, **named)

    monkeypatch.setattr(Image.Image, "resize", told)
    once = ((84, 84), Image.Resampling.BICUBIC)
    for _ in range(2):
        seen.clear()
        cell.request(lambda phase, part, index=None: seen.append(phase))
        assert seen[:4] == [once, once, "preprocess", "transfer"]
        assert not [each for each in seen[4:] if isinstance(each, tuple)]
    seen.clear()
    vanilla.request(lambda phase, part, index=None: seen.append(phase))
    assert once not in seen


@pytest.fixture(scope="module")
def record() -> Record:
    spec = RunSpec.of(
        methods=[RESIZED, BOTH, TOO_SMALL, "random:keep=1/2"],
        rounds=1,
        image_size=SIZE,
        passes=["flops", "lengths"],
        tokens=True,
    )
    return Comparison(spec, model=load("llava-next")).run()


def test_the_record_is_about_the_whole_request(record: Record) -> None:
    vanilla, resized, both, _, _ = record.cells
    assert (record.request.visual, record.request.tiles) == (180, 5)
    assert record.request.picture == [list(SIZE)]
    assert vanilla.visual_per_layer == [180] * 8
    assert resized.visual_per_layer == [108] * 8
    assert both.visual_per_layer == [108] * 2 + [54] * 6
    assert [len(cell.samples) for cell in (vanilla, resized, both)] == [1, 1, 1]
    assert (vanilla.note, resized.note, both.note) == ("", NOTE, NOTE)


def test_flops_of_a_smaller_picture_are_the_counted_ones(record: Record) -> None:
    for cell in record.cells[1:3]:
        derived = dict.fromkeys(cell.counted_flops, 0)
        for item in cell.cost:
            derived[item.phase] = derived.get(item.phase, 0) + item.flops
        counted = {
            phase: flops - cell.table_flops.get(phase, 0)
            for phase, flops in cell.counted_flops.items()
        }
        assert {phase: derived[phase] for phase in counted} == counted
        assert sum(derived.values()) == sum(counted.values())
        assert cell.new_length is not None


def test_a_budget_that_cannot_be_met_is_a_row_that_names_the_least(record: Record) -> None:
    told = record.cells[3].error
    assert "made smaller, becomes 108 at least: give a count from 108 to 180" in told


def test_kept_tokens_are_those_of_the_picture_that_is_shown(record: Record) -> None:
    assert [bool(cell.kept) for cell in record.cells] == [True, False, False, False, True]
    assert record.cells[1].missing["tokens"] == "a resized picture has other ones"


def test_tokens_refuses_it_by_name() -> None:
    given: dict[str, Any] = {"model": "tiny-qwen2-vl", "device": "cpu", "attention": ["rows"]}
    spec = Subject.of(methods=["random", "downsample"], **given)
    viewer = TokenViewer(spec, images=[None])
    with pytest.raises(InputError, match=r"^downsample: it has the picture resized"):
        viewer.seen()


def test_one_budget_for_all_counts_the_smaller_picture(prepare: Preparation) -> None:
    methods = [parse(spec) for spec in ("downsample:keep=2/3", "random:keep=3/4", TOO_SMALL)]
    resized, other, too_small = equalize(methods, prepare)
    assert prepare.request_for(resized).visual == 108
    counts = other.plan(prepare.request).visual_per_layer(prepare.request)
    assert sum(counts) / len(counts) == pytest.approx(108, abs=1)
    assert too_small == methods[2]


def test_the_gate_plans_it_on_its_own_request() -> None:
    def look(spec: str, model: str, **options: Any) -> None:
        counting._look(Subject.of(methods=[spec], model=model, **options))

    look("downsample:keep=1/9", "tiny-qwen2-vl")
    with pytest.raises(InputError, match=r"^downsample: .* becomes 1728 at least"):
        look("downsample", "tiny")
    with pytest.raises(UnsupportedError, match=r"^downsample: .* no smaller one"):
        look("downsample", "tiny-llava")
    with pytest.raises(UnsupportedError, match=r"^downsample: .* synthetic"):
        look("downsample", "tiny", visual_tokens=64)


@pytest.mark.parametrize(
    ("model", "keep", "size"), [("llava-next-7b", "3/5", 336), ("qwen2-vl-7b", "1/9", 238)]
)
def test_a_plan_is_vanillas_on_the_smaller_picture(model: str, keep: str, size: int) -> None:
    peaks = named("h100")
    resized = Planner(model, Workload(), peaks=peaks).plan(parse(f"downsample:keep={keep}"))
    small = Planner(model, Workload(image_size=(size, size)), peaks=peaks).plan(parse("vanilla"))
    same = ("flops", "prefill_flops", "kv_bytes", "peak_bytes", "floor_seconds", "largest_batch")
    assert {name: getattr(resized, name) for name in same} == {
        name: getattr(small, name) for name in same
    }
    assert resized.visual_per_layer == small.visual_per_layer
    assert resized.note == f"picture resized from 672x672 to {size}x{size} (width x height)"


def test_what_is_already_prepared_stays_as_it_is(prepare: Preparation) -> None:
    resized = prepare.resized(parse(RESIZED))
    assert prepare.resized(parse("random")) is prepare
    assert prepare.resized(parse("downsample:keep=100%")) is prepare
    assert (prepare.sizes, prepare.note, prepare.request.whole) == (None, "", None)
    assert (resized.sizes, resized.note, resized.request.whole) == (((84, 84),), NOTE, 180)
    assert resized.longer(3).request == replace(resized.request, after=prepare.request.after + 3)
    assert resized.longer(3)().request.visual == 108
