"""A method that withdraws all visual tokens, as VTW does, held against transformers' own layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from micro_models import SIZE, load
from torch import Tensor

import tpprof
from tpprof.methods import Entering, Keep, Method, Plan, Request, Stage, View
from tpprof.methods.engine.verify import DecisionError
from tpprof.tests.methods import reference

FROM = 4  # the first layer without visual tokens


@dataclass(frozen=True)
class Withdraw(Method):
    name: ClassVar[str] = "withdraw"
    planned: int | None = 0

    def plan(self, request: Request) -> Plan:
        return Plan([Stage(Entering(FROM), self.planned)])

    def decide(self, view: View, stage: Stage) -> Keep:
        return Keep(torch.empty(len(view.states), 0, dtype=torch.int64))


def nothing(attention: Tensor, states: Tensor) -> reference.Choice:
    return reference.Choice(torch.empty(0, dtype=torch.int64), states[:0])


@pytest.mark.parametrize("architecture", ["llava", "qwen2-vl", "qwen3-vl", "internvl"])
def test_text_goes_on_alone(architecture: str) -> None:
    model = load(architecture)
    inputs = tpprof.inputs(model, image_size=SIZE)
    expected = reference.walk(reference.observe(model, inputs), {FROM - 1: nothing}, compact=False)
    trace = tpprof.forward(model, inputs, Withdraw(), new_tokens=2)
    assert trace.visual_per_layer == [len(kept) for kept in expected.kept]
    assert trace.visual_per_layer[FROM:] == [0] * (len(trace.visual_per_layer) - FROM)
    assert trace.ledger.cached == expected.cached
    torch.testing.assert_close(trace.logits[0], expected.logits, atol=1e-4, rtol=1e-3)
    assert trace.tokens[0].tolist()[:1] == [int(expected.logits.argmax())]
    torch.testing.assert_close(trace.step_logits[0, 0], expected.step_logits, atol=1e-4, rtol=1e-3)


def test_who_plans_no_count_drops_not_all() -> None:
    model = load("llava")
    inputs = tpprof.inputs(model, image_size=SIZE)
    with pytest.raises(DecisionError, match="drops all plans 0 tokens"):
        tpprof.forward(model, inputs, Withdraw(planned=None))
