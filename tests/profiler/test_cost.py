"""Analytic FLOPs against counted ones, operator by operator, and against published totals."""

from __future__ import annotations

import pytest
import torch
from micro import SIZE
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

import tpprof
from tpprof import methods
from tpprof.methods.core.ledger import POLICIES, Policy, planned
from tpprof.profiler import cost
from tpprof.profiler.models.geometry import request
from tpprof.profiler.models.model import Model
from tpprof.profiler.models.shapes import SHAPES

SPECS = [*methods.names(), "sparsevlm:version=1.5", "mustdrop:global_threshold=0.02,similarity=0.9",
         "sparsevlm:adaptive=true,scale=1.5", "sparsevlm:adaptive=true"]  # fmt: skip
aten = torch.ops.aten


def _sdpa(query, key, value, *args, out_shape=None, **kwargs):  # type: ignore[no-untyped-def]
    """torch counts 0 for attention on the CPU unless it is told the formula."""
    return sdpa_flop_count(query, key, value)


def counted(model: Model, inputs, method: methods.Method, policy: Policy):  # type: ignore[no-untyped-def]
    """FLOPs as torch counts them, rotary tables left out, and the trace."""
    mapping = {aten._scaled_dot_product_flash_attention_for_cpu: _sdpa}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        trace = tpprof.forward(model, inputs, method, attention=policy, new_tokens=3)
    tables = sum(
        sum(counts.values())
        for module, counts in counter.get_flop_counts().items()
        if module.rpartition(".")[2].endswith("RotaryEmbedding")
    )
    return counter.get_total_flops() - tables, trace


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("spec", SPECS)
def test_analytic_flops_are_the_counted_ones(
    model: Model, spec: str, policy: Policy, batch: int
) -> None:
    inputs = tpprof.inputs(model, size=SIZE, batch_size=batch, new_tokens=3)
    method = methods.with_keep(methods.parse(spec), "1/2")
    count, trace = counted(model, inputs, method, policy)
    plan = method.plan(inputs.request)
    items = cost.flops(model.shape, inputs.request, plan, trace.ledger)
    assert cost.total(items) == count


@pytest.mark.parametrize("options", [{"layout": "anyres"}, {"visual_tokens": 77}])
def test_other_inputs_are_counted_too(model: Model, options: dict[str, object]) -> None:
    inputs = tpprof.inputs(model, size=SIZE, **options)
    method = methods.parse("fastv:keep=1/2")
    count, trace = counted(model, inputs, method, "rows")
    request_ = trace.ledger
    plan = method.plan(inputs.request)
    items = cost.flops(model.shape, inputs.request, plan, request_)
    assert cost.total(items) == count


def test_kv_bytes_follow_from_the_cached_tokens(model: Model) -> None:
    inputs = tpprof.inputs(model, size=SIZE, batch_size=2)
    trace = tpprof.forward(model, inputs, "mustdrop:keep=1/2")
    derived = cost.kv_bytes(model.shape, inputs.request, trace.ledger.cached, itemsize=4)
    assert derived == trace.kv_bytes.prefill


def _share(spec: str, after: int = 25) -> float:
    """FLOPs of prefill over vanilla's, on LLaVA-NeXT-7B with 35 + `after` text tokens."""
    shape = SHAPES["llava-next-7b"]
    lengths = request(shape, before=35, after=after, size=(672, 672))

    def prefill(text: str) -> int:
        plan = methods.parse(text).plan(lengths)
        items = cost.flops(shape, lengths, plan, planned(plan, lengths, "maps"))
        return cost.total((i for i in items if i.operator != "select"), "prefill")

    return 100 * prefill(spec) / prefill("vanilla")


@pytest.mark.parametrize(
    ("spec", "after", "percent"),
    [
        ("fastv:layer=1,keep=320", 25, 14.49),
        ("fastv:keep=320", 25, 17.25),
        ("fastv:keep=320", 5, 16.74),
        ("fastv:layer=3,keep=320", 25, 20.00),
        ("fastv:layer=3,keep=55", 35, 12.83),
        ("sparsevlm:keep=320", 25, 15.21),
        ("sparsevlm:keep=320", 35, 15.47),
    ],
)
def test_shares_are_those_worked_out_by_hand(spec: str, after: int, percent: float) -> None:
    assert _share(spec, after) == pytest.approx(percent, abs=0.02)


def test_absolute_flops_of_llava_next_7b() -> None:
    shape = SHAPES["llava-next-7b"]
    lengths = request(shape, before=35, after=25, size=(672, 672))
    plan = methods.parse("vanilla").plan(lengths)
    items = cost.flops(shape, lengths, plan, planned(plan, lengths, "rows"))
    vision = cost.total(items, "vision")
    projector = sum(item.flops for item in items if item.operator == "projector")
    assert cost.total(items, "prefill") == pytest.approx(2 * 21.3e12, rel=0.005)
    assert vision - projector == pytest.approx(2 * 0.95e12, rel=0.01)
    assert projector == pytest.approx(2 * 0.06e12, rel=0.02)
