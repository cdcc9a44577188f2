"""Methods one behind another: what each prunes, and what does not go together."""

from __future__ import annotations

import pytest
import torch
from micro_models import SIZE, load

import tpprof
from tpprof import methods
from tpprof.methods import InputError, SpecError, UnsupportedError
from tpprof.methods.contract.policies import POLICIES
from tpprof.methods.engine.ledger import planned
from tpprof.profiler.models.model import Model

TOGETHER = [
    "fastervlm:keep=1/2+fastv:keep=1/3",
    "fastervlm:keep=1/2+sparsevlm:keep=1/2",
    "fastv:keep=1/2,layer=1+random:keep=1/2,layer=3",
    "fastervlm:keep=24+fastv:keep=12,layer=2+fastv-vis:keep=6,layer=5",
]


@pytest.mark.parametrize("spec", TOGETHER)
def test_what_is_planned_is_what_runs(model: Model, spec: str) -> None:
    method = methods.parse(spec)
    assert methods.format_spec(method) == spec
    inputs = tpprof.inputs(model, image_size=SIZE)
    for policy in POLICIES:
        trace = tpprof.forward(model, inputs, method, attention=policy)
        assert planned(method.plan(inputs.request), inputs.request, policy) == trace.ledger


def test_each_part_prunes_what_is_left_as_it_would_alone(model: Model) -> None:
    inputs = tpprof.inputs(model, image_size=SIZE)
    first = tpprof.forward(model, inputs, "fastervlm:keep=1/2").kept[0]
    both = tpprof.forward(model, inputs, "fastervlm:keep=1/2+fastv:keep=1/3,layer=2")
    assert torch.equal(both.kept[1], first)
    last = both.kept[2][0].tolist()
    assert set(last) < set(first[0].tolist())
    assert len(last) == round(first.shape[1] / 3), "a share of what is left"


def test_a_budget_for_all_is_not_one_for_parts() -> None:
    method = methods.parse("fastervlm:keep=1/2+fastv:keep=1/3", keep="1/9")
    assert methods.format_spec(method) == "fastervlm:keep=1/2+fastv:keep=1/3"
    assert methods.with_keep(method, "1/9") == method


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("fastv+fastv", "they clash"),
        ("fastv+fastervlm", "they clash"),
        ("pyramiddrop+fastv", "they clash"),
        ("fastv:keep=1/2,layer=1+pyramiddrop:keep=1/2", "one keeps positions, the other"),
        ("sparsevlm:adaptive=true+fastv:layer=7", "it can only stand last"),
        ("tome:keep=1/2+fastervlm:keep=1/2", "leaves no whole tile"),
        ("tome:keep=1/2+cdpruner:keep=1/2", "it needs every token of the picture"),
        ("visionzip:keep=1/2+holov:keep=1/2", "they clash"),
        ("fastervlm:keep=1/2+fastv-window:keep=1/2", "it needs every token of the picture"),
        ("fastervlm:keep=1/2+pooling", "it needs every token of the picture"),
        ("fastervlm:keep=4+fastv:keep=5", "but those before it leave 4"),
    ],
)
def test_what_does_not_go_together(llava_next: Model, spec: str, why: str) -> None:
    inputs = tpprof.inputs(llava_next, image_size=SIZE)
    with pytest.raises((UnsupportedError, InputError)) as told:
        tpprof.forward(llava_next, inputs, spec)
    assert why in str(told.value)


def test_positions_clash_where_they_can_be_numbered_anew() -> None:
    inputs = tpprof.inputs(load("qwen2-vl"), image_size=SIZE)
    tpprof.forward(load("qwen2-vl"), inputs, "fastv:keep=1/2,layer=1+pyramiddrop:keep=1/2")


@pytest.mark.parametrize("spec", ["fastv+", "+fastv", "fastv+vanilla", "vanilla+fastv"])
def test_what_is_no_composition(spec: str) -> None:
    with pytest.raises((SpecError, InputError)):
        methods.parse(spec)
