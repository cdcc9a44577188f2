"""What every registered method promises: one contract, held for all of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from micro_models import shown
from operator_counter import FREE
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

import tpprof
from tpprof import methods
from tpprof.methods.contract import view
from tpprof.methods.contract.policies import POLICIES, Policy
from tpprof.methods.engine.decoder import Inputs
from tpprof.methods.engine.ledger import planned
from tpprof.profiler.authoring.micro import affordable
from tpprof.profiler.models.model import Model

ALL = methods.names()
SPECS = [
    *ALL,
    "sparsevlm:version=1.5",
    "sparsevlm:recycle=false",
    "pooling:feature=argmax-l1",
    "tome:where=projected",
    "sparsevlm:version=2.0",
]


def budgeted(spec: str, keep: str | None = None) -> methods.Method:
    method = methods.parse(spec)
    return methods.with_keep(method, keep) if keep else affordable(method)


def inputs_for(model: Model, spec: str, keep: str | None = None, **options: Any) -> Inputs:
    """A request for a method, of a video for those for videos; skips where the method says that it
    cannot run on the model, as `tests/methods/test_support.py` lists."""
    try:
        method = budgeted(spec, keep)
        inputs = tpprof.inputs(model, method=method, **shown(model, method), **options)
        method.plan(inputs.request)
    except methods.UnsupportedError as error:
        pytest.skip(str(error))
    return inputs


@pytest.mark.parametrize("spec", ALL)
def test_keeping_everything_is_vanilla(model: Model, spec: str) -> None:
    inputs = inputs_for(model, spec, "100%")
    whole = tpprof.forward(model, inputs, "vanilla", new_tokens=3)
    for policy in POLICIES:
        kept = tpprof.forward(model, inputs, budgeted(spec, "100%"), attention=policy, new_tokens=3)
        torch.testing.assert_close(kept.logits, whole.logits, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(kept.step_logits, whole.step_logits, atol=1e-5, rtol=1e-4)
        assert kept.visual_per_layer == whole.visual_per_layer


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("spec", SPECS)
def test_the_planned_schedule_is_the_observed_one(model: Model, spec: str, policy: Policy) -> None:
    inputs = inputs_for(model, spec, new_tokens=3)
    method = budgeted(spec)
    trace = tpprof.forward(model, inputs, method, attention=policy)
    assert planned(method.plan(inputs.request), inputs.request, policy) == trace.ledger
    assert [kept.shape[1] for kept in trace.kept] == trace.visual_per_layer


@pytest.mark.parametrize("spec", SPECS)
def test_the_same_request_gives_the_same_tokens(model: Model, spec: str) -> None:
    inputs = inputs_for(model, spec)
    once = tpprof.forward(model, inputs, budgeted(spec))
    again = tpprof.forward(model, inputs, budgeted(spec))
    assert all(map(torch.equal, once.kept, again.kept))
    assert torch.equal(once.logits, again.logits)


@pytest.mark.parametrize("spec", SPECS)
def test_text_and_order_survive(model: Model, spec: str) -> None:
    inputs = inputs_for(model, spec)
    request = inputs.request
    trace = tpprof.forward(model, inputs, budgeted(spec))
    for tokens, visual, kept in zip(
        trace.ledger.tokens, trace.visual_per_layer, trace.kept, strict=True
    ):
        assert tokens - visual == request.text
        for row in kept:
            real = row[row >= 0]
            assert torch.equal(real, real.sort().values)
            assert real.unique().numel() == real.numel()
            assert int(row.max()) < request.visual


@pytest.mark.parametrize("spec", SPECS)
def test_decode_is_finite_and_caches_grow_by_one_token_a_step(model: Model, spec: str) -> None:
    inputs = inputs_for(model, spec)
    trace = tpprof.forward(model, inputs, budgeted(spec), new_tokens=4)
    assert trace.tokens.shape == (1, 4)
    assert trace.step_logits.shape[1] == 3
    assert torch.isfinite(trace.step_logits).all()
    text = model.shape.text
    token = 2 * text.kv_heads * text.head_dim * 4
    assert trace.kv_bytes.prefill == [count * token for count in trace.ledger.cached]
    assert trace.kv_bytes.decode == [bytes_ + 3 * token for bytes_ in trace.kv_bytes.prefill]


@pytest.mark.parametrize("spec", SPECS)
def test_a_batch_of_equal_prompts_is_one_prompt_twice(model: Model, spec: str) -> None:
    one = tpprof.forward(model, inputs_for(model, spec), budgeted(spec))
    two = tpprof.forward(model, inputs_for(model, spec, batch_size=2), budgeted(spec))
    assert two.visual_per_layer == one.visual_per_layer
    for logits in two.logits:
        torch.testing.assert_close(logits[None], one.logits, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ALL)
def test_the_docstring_names_idea_and_paper(name: str) -> None:
    cls = methods.method_class(name)
    assert cls.summary().endswith((".", ":"))
    assert name == "vanilla" or cls.reference("Paper").startswith("https://")
    assert all(knob.metadata["about"] for knob in cls.knobs())


@pytest.mark.parametrize(
    "spec",
    [*ALL, "fastv:keep=320", "fastv:keep=1/4,layer=3", "fastv:keep=1/1", "mustdrop:merge=0.25"],
)
def test_spec_strings_parse_back(spec: str) -> None:
    method = methods.parse(spec)
    assert methods.format_spec(method) == spec
    assert methods.parse(methods.format_spec(method)) == method


class _Syncs(TorchDispatchMode):
    """Counts the operators that make the host wait for a device."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func._schema.name.partition("::")[2]
        masks = any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
            for index in (args[1] if name.startswith("index") and len(args) > 1 else ()) or ()
        )
        if name.startswith(self.WAITING) or masks:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("spec", "stages"),
    [(spec, 0) for spec in SPECS]
    + [("mustdrop:global_threshold=0.001", 4), ("sparsevlm:adaptive=true", 4)],
)
def test_host_synchronisations(llava_next: Model, spec: str, stages: int) -> None:
    inputs = inputs_for(llava_next, spec)
    solved: dict[str, float] = {}
    tpprof.forward(llava_next, inputs, budgeted(spec), solved=solved)
    with _Syncs() as syncs:
        tpprof.forward(llava_next, inputs, budgeted(spec), solved=solved, verify=False)
    assert len(syncs.seen) == stages, syncs.seen


class _Launches(TorchDispatchMode):
    """Counts operators, views aside."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.seen += not func.is_view and func._overloadpacket not in FREE
        return func(*args, **(kwargs or {}))


PRICED = {
    *("vanilla", "fastv", "fastv-alpha", "fastv-dagger", "fastv-reverse", "fastv-vis"),
    *("fastv-window", "random", "pyramiddrop", "fastervlm", "dart", "divprune", "cdpruner"),
    *("downsample", "prunesid", "evs", "fastvid", "flashvid", "vidcom2"),
}
"""Methods that say how many operators their decisions call; of the others only a run tells."""


def made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the tokens stand is kept from request to request, and is no part of the price: it is
    made anew and not counted, so that no earlier test decides whether it is."""

    def uncounted(*given: Any) -> Tensor:
        with _disable_current_modes():
            return kept.__wrapped__(*given)

    kept = view._grid
    monkeypatch.setattr(view, "_grid", uncounted)


@pytest.mark.parametrize("keep", ["1/12", "1/3"])
@pytest.mark.parametrize("name", ALL)
def test_the_price_is_what_a_decision_launches(
    model: Model, name: str, keep: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        inputs, method = inputs_for(model, name, keep), methods.parse(name, keep)
    except methods.BudgetError as error:
        pytest.skip(str(error))
    seen: dict[methods.Stage, int] = {}
    decide = type(method).decide

    def counted(
        self: methods.Method, view: methods.View, stage: methods.Stage
    ) -> methods.Keep | None:
        with _Launches() as launches:
            made = decide(self, view, stage)
        seen[stage] = launches.seen
        return made

    monkeypatch.setattr(type(method), "decide", counted)
    made_anew(monkeypatch)
    tpprof.forward(model, inputs, method, verify=False)
    wanted = method.plan(inputs.request).stages
    assert {stage: seen[stage] for stage in wanted if stage.launches is not None} == {
        stage: stage.launches for stage in wanted if stage.launches is not None
    }
    assert all(stage.launches is not None for stage in wanted) == (name in PRICED)
