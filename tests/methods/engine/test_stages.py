"""What stages see and leave, where several come together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from micro_models import SIZE, load

import tpprof
from tpprof import methods
from tpprof.methods import (
    Entering,
    Keep,
    Keys,
    Leaving,
    Method,
    Plan,
    Rows,
    Stage,
    Tower,
    View,
    top,
)
from tpprof.methods.contract.arrangement import Arrangement
from tpprof.methods.contract.view import Notes
from tpprof.methods.engine.verify import DecisionError
from tpprof.profiler import cost
from tpprof.profiler.cost.planning import Planner
from tpprof.reports.record.spec import Workload


@dataclass(frozen=True)
class Staged(Method):
    """Acts where it is told to, and keeps the largest states."""

    name: ClassVar[str] = "staged"
    stages: tuple[Stage, ...] = ()
    halve: bool = False

    def plan(self, request: methods.Request) -> Plan:
        return Plan(self.stages)

    def decide(self, view: View, stage: Stage) -> Keep | None:
        if self.halve:
            index = torch.arange(view.count).expand(view.hidden.shape[0], -1)
            return Keep(index, view.states * 0.5)
        assert stage.tokens is not None
        return top(view.states.norm(dim=-1), stage.tokens)


@pytest.mark.parametrize(
    ("architecture", "layout"), [("qwen2-vl", "flat"), ("llava-next", "anyres"), ("llava", "flat")]
)
def test_other_features_in_the_tower_change_no_origin(architecture: str, layout: str) -> None:
    model = load(architecture)
    inputs = tpprof.inputs(model, image_size=SIZE, layout=layout)
    stage = Stage(Tower(1), inputs.request.tower.patches)
    trace = tpprof.forward(model, inputs, Staged(stages=(stage,), halve=True))
    assert trace.kept[0][0].tolist() == list(range(inputs.request.visual))


def test_keys_are_those_of_the_tokens_that_are_there() -> None:
    """Two stages: the second reads a layer that ran behind the first."""
    model = load("llava")
    inputs = tpprof.inputs(model, image_size=SIZE)
    seen: list[View] = []

    @dataclass(frozen=True)
    class Looking(Staged):
        def decide(self, view: View, stage: Stage) -> Keep | None:
            seen.append(view)
            return super().decide(view, stage)

    tpprof.forward(
        model,
        inputs,
        Looking(stages=(Stage(Leaving(3), 18), Stage(Entering(5), 6, (Rows("last"), Keys())))),
    )
    view = seen[-1]
    assert view.keys.shape[2] == view.count == view.rows.shape[-1] == 18
    assert view.text_keys.shape[2] == inputs.request.after


def test_what_all_patches_attend_to_leaves_the_class_token_out() -> None:
    model = load("llava")
    inputs = tpprof.inputs(model, image_size=SIZE)
    trace = tpprof.forward(
        model, inputs, Staged(stages=(Stage(Tower(1), 36, Rows("all")),), halve=True)
    )
    (read,) = trace.ledger.encoder_rows.values()
    assert (read.rows, read.keys) == (36, 37)


def test_random_numbers_that_are_written_to_stay_what_they_are() -> None:
    request = tpprof.inputs(load("llava"), image_size=SIZE).request
    view = View(
        Entering(2),
        request,
        torch.zeros(1, 4, 8),
        Arrangement(0, 4),
        original=torch.arange(4)[None],
        notes=Notes(drawn={}),
        norm=lambda states: states,
    )
    first = view.random(3)
    kept = first.clone()
    first.mul_(0)
    assert torch.equal(view.random(3), kept)


def test_a_move_of_states_is_charged_to_one_stage() -> None:
    model = load("llava")
    inputs = tpprof.inputs(model, image_size=SIZE)

    def moved(spec: str | Method) -> int:
        method = methods.parse(spec) if isinstance(spec, str) else spec
        trace = tpprof.forward(model, inputs, method)
        plan = method.plan(inputs.request)
        items = cost.items(model.shape, inputs.request, plan, trace.ledger, 4)
        return sum(item.work.written_bytes for item in items if item.part == "select")

    alone = moved("divprune:keep=1/2")
    assert moved("divprune:keep=1/2+sparsevlm:keep=100%") == alone > 0
    both = Staged(stages=(Stage(Leaving(3), 18), Stage(Entering(4), 9)))
    assert moved(both) == moved(Staged(stages=(Stage(Entering(4), 9),)))


def test_the_peak_of_a_map_that_is_read_ahead_is_planned() -> None:
    def peak(spec: str, policy: str) -> int:
        planner = Planner("llava-next-7b", Workload(image_size=(672, 672)), attention=policy)
        return planner.plan(methods.parse(spec)).peak_bytes or 0

    more = peak("pyramiddrop:keep=15/32", "maps") - peak("pyramiddrop:keep=15/32", "rows")
    assert more > 0.9 * 32 * 2940**2 * 9


def test_a_fault_of_a_part_names_its_own_code() -> None:
    @dataclass(frozen=True)
    class Wrong(Staged):
        def decide(self, view: View, stage: Stage) -> Keep | None:
            return None

    parts = (methods.parse("divprune:keep=1/2"), Wrong(stages=(Stage(Entering(3), 9),)))
    composed = methods.contract.composition.Composition(parts=parts)
    with pytest.raises(DecisionError, match=r"Wrong\.decide, test_stages\.py line"):
        tpprof.forward(load("llava"), tpprof.inputs(load("llava"), image_size=SIZE), composed)


@pytest.mark.parametrize(
    "spec", ["fastervlm:keep=180", "vscan:layer=7,keep=6", "cdpruner:keep=190"]
)
def test_budgets_at_the_edge(spec: str) -> None:
    model = load("llava-next")
    inputs = tpprof.inputs(model, image_size=SIZE, layout="anyres")
    trace = tpprof.forward(model, inputs, spec)
    assert trace.visual_per_layer[-1] > 0
