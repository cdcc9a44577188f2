"""Finding methods, and reading spec strings and plans."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from micro_models import SIZE

import tpprof
from tpprof import methods
from tpprof.methods.contract import registry
from tpprof.methods.contract.request import Encoder, Request, Segment
from tpprof.methods.contract.spec import require_once
from tpprof.profiler.models.model import Model

methods.names()  # discover before a test registers anything

NEXT = Request(
    layers=32,
    hidden=4096,
    before=35,
    after=25,
    segments=(Segment(24, 24),) * 5,
    encoder=Encoder(tiles=5, patches=576, layers=24, width=1024),
)
LLAVA = Request(
    layers=32,
    hidden=4096,
    before=35,
    after=25,
    segments=(Segment(24, 24),),
    encoder=Encoder(tiles=1, patches=576, layers=24, width=1024),
)


def counts(spec: str, request: Request) -> list[int]:
    return methods.parse(spec).plan(request).visual_per_layer(request)


def test_a_taken_name_is_refused() -> None:
    with pytest.raises(ValueError, match="already registered"):

        @methods.register("fastv")
        @dataclass(frozen=True)
        class Other(methods.Method):
            """Another."""


def test_entry_points_add_methods_and_a_broken_one_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group = "tpprof.methods"
    plugins = [
        EntryPoint("good", "tpprof.methods.fastv", group),
        EntryPoint("bad", "no_such_module_at_all", group),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: plugins)
    registry._discover.cache_clear()
    with pytest.warns(UserWarning, match="plug-in 'bad' could not be loaded"):
        assert "fastv" in methods.names()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("320", 320),
        ("0.25", Fraction(1, 4)),
        ("1/9", Fraction(1, 9)),
        ("25%", Fraction(1, 4)),
        ("100%", Fraction(1)),
        ("1.0", Fraction(1)),
    ],
)
def test_budgets(text: str, value: object) -> None:
    assert methods.parse(f"fastv:keep={text}").keep == value  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", ["0.0", "-1/2", "1.5", "x", "1/0", "120%"])
def test_budgets_that_are_none(text: str) -> None:
    with pytest.raises(methods.SpecError, match="not a whole number or a share"):
        methods.parse(f"fastv:keep={text}")


@pytest.mark.parametrize("keep", ["0", "-3", "2881"])
def test_counts_that_do_not_fit_are_refused_with_what_does(keep: str) -> None:
    with pytest.raises(methods.BudgetError, match="from 1 to 2880"):
        methods.parse(f"fastv:keep={keep}").plan(NEXT)


def test_knobs_are_typed() -> None:
    assert methods.parse("fastv:layer=auto") == methods.parse("fastv")
    assert methods.parse("sparsevlm:recycle=false,adaptive=true").adaptive  # type: ignore[attr-defined]
    for spec, told in (
        ("fastv:layer=2.5", "not a whole number or 'auto'"),
        ("sparsevlm:recycle=maybe", "not true or false"),
        ("fastv-alpha:alpha=2", "alpha=2.0 is above 1"),
        ("vscan:window=0", "window=0 is below 1"),
        ("mustdrop:individual_threshold=0.1", "needs a global_threshold"),
        ("mustdrop:merge=0.5,similarity=0.8", "exclude each other"),
        ("sparsevlm:version=1.5,adaptive=true", "is of 1.0"),
        ("fastv:keep=3,keep=4", "given twice"),
        ("fastv-alpha:alpha=nan", "alpha=nan is no finite number"),
        ("mustdrop:merge=nan", "merge=nan is no finite number"),
        ("mustdrop:global_threshold=inf", "inf is no finite number"),
        ("holov:alpha=-1", "alpha=-1.0 is below 0"),
        ("mustdrop:similarity=2", "similarity=2.0 is above 1"),
        ("random:seed=99999999999999999999", "seed=99999999999999999999 is above"),
        ("sparsevlm:scale=9", "scale and bias need adaptive=true"),
        ("sparsevlm:bias=6", "scale and bias need adaptive=true"),
    ):
        with pytest.raises(methods.SpecError, match=told):
            methods.parse(spec)


@pytest.mark.parametrize("spec", ["vispruner:important=", "visionzip:contextual="])
@pytest.mark.parametrize(("text", "value"), [("0", 0), ("0%", 0), ("1", 1), ("100%", 1)])
def test_a_share_may_be_none_or_all(spec: str, text: str, value: int) -> None:
    method = methods.parse(spec + text)
    assert getattr(method, spec[:-1].partition(":")[2]) == value
    assert methods.parse(methods.format_spec(method)) == method
    assert method.plan(LLAVA).stages[-1].tokens == 64


def test_a_method_is_listed_once() -> None:
    for listed in (["fastv", "fastv:keep=1/9"], ["fastv:keep=4", "dart", "fastv:keep=4"]):
        with pytest.raises(methods.InputError, match=r"listed twice.*tag=again"):
            require_once(list(map(methods.parse, listed)))
    require_once(list(map(methods.parse, ["fastv", "fastv:tag=again", "fastv+dart:layer=4"])))


def test_published_layers_stand_from_24_up_and_shrink_below() -> None:
    published = (2, 6, 15, 19)
    for layers, expected in (
        (32, published),
        (24, published),
        (80, published),
        (16, (1, 3, 8, 10)),
        (8, (1, 2, 4, 5)),
        (6, (1, 2, 3, 4)),
    ):
        request = Request(layers=layers, hidden=1, before=1, after=1, segments=(Segment(1, 1),))
        assert request.scale(published) == expected
    shallow = Request(layers=4, hidden=1, before=1, after=1, segments=(Segment(1, 1),))
    with pytest.raises(methods.BudgetError, match="too few"):
        shallow.scale(published)


def test_fastv_schedules_of_llava_next() -> None:
    assert counts("fastv:keep=320", NEXT) == [2880] * 2 + [320] * 30
    assert counts("fastv:keep=320,layer=1", NEXT) == [2880] + [320] * 31


def test_sparsevlm_schedules() -> None:
    assert counts("sparsevlm:keep=320", NEXT) == (
        [2880] * 3 + [220] * 4 + [140] * 9 + [138] * 4 + [138] * 12
    )
    assert counts("sparsevlm:version=1.5,keep=192", LLAVA) == (
        [576] * 3 + [309] * 4 + [204] * 9 + [113] * 16
    )
    assert counts("sparsevlm:version=1.5,keep=64", LLAVA) == (
        [576] * 3 + [82] * 4 + [32] * 9 + [18] * 16
    )


@pytest.mark.parametrize("keep", [640, 320])
@pytest.mark.parametrize("name", ["sparsevlm", "sparsevlm:version=1.5", "mustdrop"])
def test_layer_means_meet_the_budget(name: str, keep: int) -> None:
    separator = "," if ":" in name else ":"
    plan = methods.parse(f"{name}{separator}keep={keep}").plan(NEXT)
    leaving = plan.visual_leaving(NEXT)
    assert sum(leaving) / len(leaving) == pytest.approx(keep, rel=0.01)


def test_sparsevlm_says_when_a_mean_cannot_be_met() -> None:
    with pytest.raises(methods.BudgetError, match="the least is"):
        methods.parse("sparsevlm:keep=160").plan(NEXT)


def test_mustdrop_schedule_respects_keys_and_merging() -> None:
    plan = methods.parse("mustdrop:keep=320").plan(NEXT)
    assert plan.entering(NEXT) == 5 * (576 - 8 * 32)
    assert plan.compressed == range(2, 15)
    entering = plan.visual_per_layer(NEXT)
    ratios = [b / a for a, b in zip(entering[2::4][:3], entering[6::4][:3], strict=True)]
    assert max(ratios) - min(ratios) < 0.05
    assert plan.visual_cached(NEXT) == [1600] * 2 + [entering[-1]] * 30
    assert entering[-1] >= 5 * 26
    tight = methods.parse("mustdrop:keep=160").plan(NEXT)
    assert (tight.entering(NEXT) or 1600) < 1600
    assert methods.parse("mustdrop:keep=40").plan(NEXT).note.startswith("its key tokens")


def test_data_dependent_plans_say_so() -> None:
    plan = methods.parse("sparsevlm:adaptive=true").plan(NEXT)
    assert not plan.planned
    with pytest.raises(ValueError, match="depends on the data"):
        plan.visual_per_layer(NEXT)
    assert methods.parse("mustdrop:similarity=0.8").plan(NEXT).entering(NEXT) is None


def test_dagger_credits_the_merger() -> None:
    merging = Request(
        layers=28, hidden=3584, before=15, after=25, segments=(Segment(24, 24),), merger=4
    )
    assert counts("fastv-dagger:keep=1/9", merging)[-1] == 448  # 576 * (1 - (8/9) / 4)
    assert counts("fastv-dagger:keep=1/9,reading=patches", merging)[-1] == 256  # 4/9 of 576
    assert counts("fastv-dagger:keep=1/3,reading=patches", merging)[-1] == 576
    assert counts("fastv-dagger:keep=64", LLAVA) == counts("fastv:keep=64", LLAVA)


@pytest.mark.parametrize(("window", "left"), [(2, 144), (3, 64), (5, 25)])
def test_pooling_counts(window: int, left: int) -> None:
    assert counts(f"pooling:window={window}", LLAVA)[-1] == left
    assert counts("pooling:keep=100", LLAVA)[-1] == 64
    assert counts("pooling:keep=320", NEXT)[-1] == 320


def test_the_example_in_contributing_works(model: Model, tmp_path: Path) -> None:
    text = (Path(tpprof.__file__).parent / "CONTRIBUTING.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    path = tmp_path / "loudest.py"
    path.write_text(code)
    spec = importlib.util.spec_from_file_location("loudest", path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["loudest"] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        inputs = tpprof.inputs(model, image_size=SIZE)
        trace = tpprof.forward(model, inputs, "loudest:keep=5")
        assert trace.visual_per_layer[-1] == 5
    finally:
        del sys.modules["loudest"]
        registry._registry.pop("loudest", None)


def test_a_field_with_another_default_alone_keeps_what_was_said_of_it() -> None:
    @dataclass(frozen=True)
    class Mine(methods.Scorer):
        per_picture: bool = True

    said = {knob.name: knob for knob in Mine.knobs()}["per_picture"]
    assert (said.default, "share in proportion" in said.metadata["about"]) == (True, True)


def test_who_is_unknown_is_told_how_to_bring_one() -> None:
    with pytest.raises(methods.UnknownMethodError, match="in the file that --plugin names"):
        methods.parse("nobody")


def test_a_folder_is_no_plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python imports any folder, and runs nothing."""
    (tmp_path / "some_folder").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(methods.InputError, match="it is a folder without __init__"):
        methods.load_plugins(["some_folder"])
