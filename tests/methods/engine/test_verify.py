"""Decisions that do not fit what was promised, each refused by the method's file and line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from micro_models import load

import tpprof
from tpprof.methods import (
    Entering,
    Keep,
    Leaving,
    Method,
    Plan,
    Request,
    Stage,
    View,
    keep_and_merge,
    parse,
)
from tpprof.methods.contract.arrangement import Arrangement
from tpprof.methods.contract.containment import location
from tpprof.methods.contract.view import Notes
from tpprof.methods.engine.run import run
from tpprof.methods.engine.verify import DecisionError, require_finite

KEPT = 9
FAULTS: dict[str, tuple[Callable[[View], Any], str]] = {
    "a forgotten return": (lambda view: None, "is a return forgotten?"),
    "no Keep": (lambda view: view.hidden.new_zeros(1, KEPT).long(), "it returns a Tensor"),
    "flags": (lambda view: Keep(torch.ones(1, view.count, dtype=torch.bool)), "bool [1, 36], not"),
    "int32": (lambda view: Keep(torch.arange(KEPT, dtype=torch.int32)[None]), "int32 [1, 9], not"),
    "one row too many": (lambda view: Keep(torch.arange(KEPT).expand(2, -1)), "2 rows for a batch"),
    "more than planned": (lambda view: Keep(torch.arange(KEPT + 1)[None]), "keeps 10 visual"),
    "fewer than planned": (lambda view: Keep(torch.arange(KEPT - 1)[None]), "keeps 8 visual"),
    "out of range": (lambda view: Keep(28 + torch.arange(KEPT)[None]), "reaches from 28 to 36"),
    "from the end": (lambda view: Keep(torch.arange(KEPT)[None] - 1), "reaches from -1 to 7"),
    "twice": (lambda view: Keep(torch.arange(KEPT)[None] // 2), "not in ascending order"),
    "unsorted": (lambda view: Keep(torch.arange(KEPT).flip(0)[None]), "not in ascending order"),
    "features of another width": (
        lambda view: Keep(torch.arange(KEPT)[None], view.states[:, :KEPT, :8]),
        "float32 [1, 9, 8], not float32 [1, 9, 64]",
    ),
    "features that are no numbers": (
        lambda view: Keep(torch.arange(KEPT)[None], view.states[:, :KEPT] * torch.nan),
        "not finite",
    ),
    "flags of another length": (
        lambda view: Keep(torch.arange(KEPT)[None], None, torch.zeros(4, dtype=torch.bool)),
        "merged is bool [4], not bool [9] or [1, 9]",
    ),
    "writing": (lambda view: _written(view), "writes to the hidden states"),
    "gradients": (lambda view: _with_gradients(), "it turns gradients on"),
}


def _with_gradients() -> Keep:
    torch.set_grad_enabled(True)
    return Keep(torch.arange(KEPT)[None])


def _written(view: View) -> Keep:
    view.hidden[:, -1] += 1
    return Keep(torch.arange(KEPT)[None])


@dataclass(frozen=True)
class Faulty(Method):
    """Keeps what it is told to."""

    name = "faulty"
    fault: str = ""

    def plan(self, request: Request) -> Plan:
        return Plan([Stage(Entering(2), KEPT)])

    def decide(self, view: View, stage: Stage) -> Keep | None:
        if self.fault:
            found: Keep | None = FAULTS[self.fault][0](view)
            return found
        return Keep(torch.arange(KEPT)[None])


def verified(method: Method, **more: Any) -> None:
    model = load("qwen2-vl")
    inputs = tpprof.inputs(model, image_size=(168, 168), text_tokens=(4, 3))
    run(model, inputs, method, new_tokens=1, verify=True, **more)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_decision_that_does_not_fit(fault: str) -> None:
    with pytest.raises(DecisionError) as caught:
        verified(Faulty(fault=fault))
    message = str(caught.value)
    assert FAULTS[fault][1] in message
    assert "(Faulty.decide, test_verify.py line " in message


def test_one_that_fits() -> None:
    verified(Faulty())


@pytest.mark.parametrize("policy", ["rows", "maps"])
def test_scores_that_are_no_numbers(policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load("qwen2-vl")
    weight = model.layers[1].self_attn.q_proj.weight
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.fill_(torch.inf)
        with pytest.raises(FloatingPointError, match=r"attention rows at layer 1 .*--dtype"):
            verified(parse("fastv:layer=2,keep=9"), attention=policy)
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def test_numbers_that_are_finite_pass() -> None:
    require_finite(torch.tensor([1.0, -65504.0], dtype=torch.float16), "logits")
    for wrong in (torch.inf, -torch.inf, torch.nan):
        with pytest.raises(FloatingPointError, match="logits are not finite numbers in float16"):
            require_finite(torch.tensor([1.0, wrong], dtype=torch.float16), "logits")


def test_an_error_of_a_methods_own_code_says_where() -> None:
    with pytest.raises(KeyError) as wrong:
        Faulty(fault="none of these").decide(None, None)  # type: ignore[arg-type]
    assert location(wrong.value, Faulty()).startswith(" (test_verify.py line ")
    with pytest.raises(RuntimeError) as other:
        torch.zeros(2) @ torch.zeros(3)
    assert location(other.value, parse("fastv")) == ""


def test_recycled_duplicates_stay_what_they_are() -> None:
    """Where all of a pool is alike, every cluster's mean is that one state: none is empty."""
    states = torch.full((1, 12, 8), 0.25)
    request = tpprof.inputs(load("llava"), text_tokens=(4, 3)).request
    original = torch.arange(12)[None]
    whole = Arrangement(0, 12)
    view = View(Leaving(2), request, states, whole, original, Notes(), norm=lambda x: x)
    keep = keep_and_merge(view, -torch.arange(12.0)[None], 3, 9, 3)
    assert keep.features is not None
    assert torch.equal(keep.features, torch.full((1, 6, 8), 0.25))


@dataclass(frozen=True)
class Holding(Method):
    """Makes what it is told to, and keeps all."""

    name = "holding"
    kind: str = ""

    def plan(self, request: Request) -> Plan:
        return Plan([Stage(Entering(2), request.visual)])

    def decide(self, view: View, stage: Stage) -> Keep | None:
        one = torch.ones(1000)  # 4,000 bytes
        if self.kind == "together":
            two = one + one
            two.view(10, 100).mul_(2)
            del one, two
        if self.kind == "one after another":
            del one
            two = torch.ones(1000)
            del two
        if self.kind == "views":
            for _ in range(5):
                view.states[:, 1:].transpose(1, 2)
                one[1:].view(-1)
        return None


@pytest.mark.parametrize(
    ("kind", "operators", "scratch"),
    [("", 1, 4000), ("together", 4, 8000), ("one after another", 2, 4000), ("views", 26, 4000)],
)
def test_what_a_decision_takes_is_counted(kind: str, operators: int, scratch: int) -> None:
    model = load("qwen2-vl")
    inputs = tpprof.inputs(model, image_size=(168, 168), text_tokens=(4, 3))
    trace = run(model, inputs, Holding(kind=kind), new_tokens=1, verify=True)
    (decision,) = trace.decisions
    assert str(decision.site) == "entering layer 2"
    assert (decision.operators, decision.scratch) == (operators, scratch)
    assert run(model, inputs, Holding(kind=kind), new_tokens=1).decisions == []


def test_key_tokens_of_mustdrop_that_do_not_all_fit_are_kept_by_their_worth() -> None:
    model, method = load("qwen2-vl"), parse("mustdrop:keep=1/9")
    inputs = tpprof.inputs(model, image_size=(168, 168), text_tokens=(4, 3), batch_size=2)
    trace = run(model, inputs, method, new_tokens=1, verify=True)
    assert len(trace.kept[-1][0]) == trace.visual_per_layer[-1]
