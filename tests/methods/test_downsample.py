"""The picture made smaller: the request is the one of a picture that was resized beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from micro_models import MICRO, load
from PIL import Image

import tpprof
from tpprof.methods import BudgetError, InputError, Method, Request, Size, UnsupportedError, parse
from tpprof.methods.contract.plan_checks import PlanError, resized_for
from tpprof.methods.engine.ledger import planned
from tpprof.methods.vanilla import Vanilla
from tpprof.profiler.models.model import Model
from tpprof.profiler.workload import by_size
from tpprof.reports.record.spec import Layout, Workload

CASES: list[tuple[str, Layout, Size, str]] = [
    ("llava-next", "flat", (168, 120), "2/3"),
    ("llava-next", "anyres", (168, 120), "2/3"),
    ("llava-next", "anyres", (100, 168), "110"),
    ("qwen2-vl", "flat", (168, 120), "1/2"),
    ("qwen2-vl", "flat", (171, 333), "1/9"),
]
each_case = pytest.mark.parametrize(("architecture", "layout", "size", "keep"), CASES)


def picture(size: Size) -> Image.Image:
    """Noise, of which each resampling makes other pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def saved(image: Image.Image, path: Path) -> str:
    image.save(path)
    return str(path)


def visual_tokens(model: Model, image: Image.Image, layout: Layout) -> int:
    """As the image processor makes them."""
    return model.visual_tokens(model.pixels([image]), layout)[0]


def scaled(size: Size, longer: int) -> Size:
    height, width = size
    most = max(size)
    return round(height * longer / most), round(width * longer / most)


def request_for(architecture: str, layout: Layout = "flat") -> Callable[[Size], Request]:
    planned = by_size(MICRO[architecture], Workload(layout=layout))
    return lambda size: planned((size,))


@each_case
def test_a_picture_that_was_resized_beforehand_gives_the_same(
    architecture: str, layout: Layout, size: Size, keep: str, tmp_path: Path
) -> None:
    model, method, image = load(architecture), parse(f"downsample:keep={keep}"), picture(size)
    smaller = method.resized(size, request_for(architecture, layout))
    before = saved(image.resize(smaller[::-1], Image.Resampling.BICUBIC), tmp_path / "small.png")
    given: dict[str, Any] = {"layout": layout, "batch_size": 2, "new_tokens": 3}
    theirs = tpprof.inputs(model, image=before, **given)
    ours = tpprof.inputs(model, image=saved(image, tmp_path / "whole.png"), method=method, **given)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    whole = request_for(architecture, layout)(size).visual
    assert ours.request == replace(theirs.request, whole=whole)
    expected, trace = tpprof.forward(model, theirs), tpprof.forward(model, ours, method)
    assert torch.equal(trace.logits, expected.logits)
    assert torch.equal(trace.step_logits, expected.step_logits)
    assert all(map(torch.equal, trace.kept, expected.kept))
    assert trace.ledger == planned(method.plan(ours.request), ours.request, "rows")


@each_case
def test_it_is_the_largest_that_keeps_to_the_budget(
    architecture: str, layout: Layout, size: Size, keep: str
) -> None:
    model, method, image = load(architecture), parse(f"downsample:keep={keep}"), picture(size)
    smaller = method.resized(size, request_for(architecture, layout))
    assert smaller == scaled(size, max(smaller)), "the aspect ratio stays"
    most = visual_tokens(model, image, layout)
    budget = request_for(architecture, layout)(size).budget(method.keep)  # type: ignore[attr-defined]
    assert visual_tokens(model, picture(smaller), layout) <= budget < most
    for longer in range(max(smaller) + 1, max(size)):
        assert visual_tokens(model, picture(scaled(size, longer)), layout) > budget


@pytest.mark.parametrize(("keep", "size"), [("1/9", (238, 238)), ("64", (238, 238))])
def test_qwen2_vl_keeps_a_ninth_of_576(keep: str, size: Size) -> None:
    """By hand: 8 x 8 tokens of 28 pixels, to which a side of 8.5 tokens is still rounded."""
    request = request_for("qwen2-vl")
    assert parse(f"downsample:keep={keep}").resized((672, 672), request) == size
    assert request(size).visual == 64


def test_all_tokens_are_the_picture_as_it_is(model: Model) -> None:
    method = parse("downsample:keep=100%")
    whole = tpprof.inputs(model, image_size=(168, 168))
    inputs = tpprof.inputs(model, image_size=(168, 168), method=method)
    assert inputs.request == whole.request
    assert inputs.request.whole is None
    assert all(torch.equal(inputs[name], whole[name]) for name in whole)
    assert method.plan(whole.request).stages == ()


def test_what_was_not_resized_for_it_is_refused() -> None:
    model = load("qwen2-vl")
    with pytest.raises(
        UnsupportedError, match=r"give it to tpprof\.inputs\(model, method=\.\.\.\)"
    ):
        tpprof.forward(model, tpprof.inputs(model, image_size=(168, 168)), "downsample")
    larger = tpprof.inputs(model, image_size=(168, 168), method="downsample:keep=1/2")
    with pytest.raises(UnsupportedError, match="this request was not made for it"):
        tpprof.forward(model, larger, "downsample:keep=1/4")
    with pytest.raises(
        BudgetError, match="keep=37 means 37 visual tokens, but this request has 36"
    ):
        tpprof.forward(model, larger, "downsample:keep=37")
    synthetic = tpprof.inputs(model, visual_tokens=36, method="downsample")
    with pytest.raises(UnsupportedError, match="synthetic: give a picture"):
        tpprof.forward(model, synthetic, "downsample")


@pytest.mark.parametrize(
    ("architecture", "size", "keep", "why"),
    [
        ("llava", (168, 120), "1/2", "no smaller one of 120x168 becomes fewer than 36 visual"),
        ("qwen2-vl", (56, 56), "1/2", "no smaller one of 56x56 becomes fewer than 4 visual"),
        ("llava-next", (1, 1), "1/2", "no smaller one of 1x1 becomes fewer than 108 visual"),
    ],
)
def test_where_a_smaller_picture_saves_nothing(
    architecture: str, size: Size, keep: str, why: str
) -> None:
    with pytest.raises(UnsupportedError, match=why):
        parse(f"downsample:keep={keep}").resized(size, request_for(architecture))


@pytest.mark.parametrize(
    ("architecture", "keep", "least", "most"),
    [("llava-next", "1/9", 108, 180), ("llava-next", "107", 108, 180), ("qwen2-vl", "3", 4, 36)],
)
def test_a_budget_too_small_is_told_the_least(
    architecture: str, keep: str, least: int, most: int
) -> None:
    asked = request_for(architecture)
    with pytest.raises(BudgetError, match=f"at least: give a count from {least} to {most}"):
        parse(f"downsample:keep={keep}").resized((168, 168), asked)
    smaller = parse(f"downsample:keep={least}").resized((168, 168), asked)
    assert asked(smaller).visual == least


@pytest.mark.parametrize("size", [(1, 190), (28, 5600), (3, 577), (4000, 21)])
def test_long_and_narrow_pictures(size: Size) -> None:
    """Rounded to whole pixels, some of their smaller sizes are too narrow for Qwen2-VL."""
    asked, method = request_for("qwen2-vl"), parse("downsample:keep=2/3")
    smaller = method.resized(size, asked)
    assert 1 <= min(smaller) <= min(size)
    assert asked(smaller).visual <= asked(size).budget(Fraction(2, 3))


class TestComposed:
    def test_what_follows_prunes_the_smaller_picture(self, tmp_path: Path) -> None:
        model, image = load("llava-next"), picture((168, 120))
        path = saved(image, tmp_path / "whole.png")
        both = parse("downsample:keep=2/3+fastv-window:keep=1/2+random:keep=1/4,layer=5")
        first = tpprof.inputs(model, image=path, method="downsample:keep=2/3")
        inputs = tpprof.inputs(model, image=path, method=both)
        assert inputs.request == first.request
        after = parse("fastv-window:keep=1/2+random:keep=1/4,layer=5")
        expected, trace = tpprof.forward(model, first, after), tpprof.forward(model, inputs, both)
        assert all(map(torch.equal, trace.kept, expected.kept))
        assert torch.equal(trace.logits, expected.logits)
        assert trace.visual_per_layer[0] == first.request.visual
        assert trace.ledger == planned(both.plan(inputs.request), inputs.request, "rows")

    @pytest.mark.parametrize(
        "spec", ["fastv+downsample", "downsample+downsample", "downsample+fastv+downsample:keep=4"]
    )
    def test_it_can_only_stand_first(self, spec: str) -> None:
        model, method = load("qwen2-vl"), parse(spec)
        with pytest.raises(UnsupportedError, match="downsample resizes the picture, before all"):
            tpprof.inputs(model, image_size=(168, 168), method=method)
        inputs = tpprof.inputs(model, image_size=(168, 168), method="downsample")
        with pytest.raises(UnsupportedError, match="it can only stand first"):
            tpprof.forward(model, inputs, method)


class Wrong(Vanilla):
    """Resizes to what it is told."""

    answer: Any = None

    def resized(self, size: Size, request_for: Callable[[Size], Request]) -> Size:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (None, "its size is None; known"),
        ((84, 84.0), "whole numbers from 1"),
        ((0, 84), "whole numbers from 1"),
        ((84, 84, 3), "whole numbers from 1"),
        ((True, 84), "whole numbers from 1"),
        ((168, 169), "larger"),
        (ZeroDivisionError("oops"), "resizing failed: ZeroDivisionError: oops"),
        (SystemExit(3), "it would end the program"),
    ],
)
def test_a_plugin_that_resizes_wrongly_is_told_where(answer: Any, why: str) -> None:
    method: Method = Wrong()
    object.__setattr__(method, "answer", answer)
    planned = request_for("qwen2-vl")
    with pytest.raises(PlanError, match=why) as told:
        resized_for(method, ((168, 168),), lambda sizes: planned(sizes[0]))
    assert isinstance(told.value, InputError)
    assert "test_downsample.py" in str(told.value)
    assert "\n" not in str(told.value)
