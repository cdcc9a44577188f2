"""Analytic FLOPs against counted ones, operator by operator, and against published totals."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from micro_models import MICRO, MICRO_DINO, SHAPES, SIZE, shown, skip_unsupported
from operator_counter import MAPPING, Counting, Key, Seen
from torch.utils.flop_counter import FlopCounterMode

import tpprof
from tpprof import methods
from tpprof.methods.contract.policies import POLICIES, Policy
from tpprof.methods.engine.decoder import Inputs
from tpprof.methods.engine.ledger import planned
from tpprof.methods.engine.run import run
from tpprof.profiler import cost
from tpprof.profiler.authoring.micro import affordable
from tpprof.profiler.cost import Work, layers
from tpprof.profiler.models.geometry import request
from tpprof.profiler.models.model import Model
from tpprof.profiler.models.shapes import Shape

SPECS = [
    *methods.names(),
    "tome:where=projected",
    "sparsevlm:version=1.5",
    "sparsevlm:version=2.0",
    "mustdrop:global_threshold=0.02,similarity=0.9",
    "sparsevlm:adaptive=true,scale=1.5",
    "sparsevlm:adaptive=true",
]
EXACT = ("projections", "ffn", "head", "projector", "patch embedding")
"""Classes whose bytes and launches are those of torch's operators; the others are lower bounds."""


@dataclass
class Sides:
    """Work by part and operator class, as derived and as torch showed it; FLOPs in all as
    FlopCounterMode counts them, rotary tables left out."""

    derived: dict[Key, Work]
    shown: dict[Key, Seen]
    counted: int


def sides(
    model: Model, inputs: Inputs, spec: str, policy: Policy = "rows", keep: str | None = None
) -> Sides:
    method = methods.parse(spec)
    method = methods.with_keep(method, keep) if keep else affordable(method)
    with (
        FlopCounterMode(display=False, custom_mapping=MAPPING) as counter,
        Counting() as counting,
    ):
        trace = run(model, inputs, method, attention=policy, new_tokens=3, lap=counting.lap)
    tables = sum(
        sum(counts.values())
        for module, counts in counter.get_flop_counts().items()
        if module.rpartition(".")[2].endswith("RotaryEmbedding")
    )
    plan = method.plan(inputs.request)
    items = cost.items(model.shape, inputs.request, plan, trace.ledger, model.dtype.itemsize)
    derived: dict[Key, Work] = {}
    for item in items:
        key = _key(item.phase, item.part, item.index, item.operator)
        derived[key] = derived.get(key, Work()) + item.work
    shown: dict[Key, Seen] = {}
    for key, seen in counting.seen.items():
        shown[_key(*key)] = shown.get(_key(*key), Seen()) + seen
    return Sides(derived, shown, counter.get_total_flops() - tables)


def _key(phase: str, part: str, index: int | None, operator: str) -> Key:
    """The tower's layers are one part for the clock, but where a method acts."""
    merged = phase == "vision" or part == "compress"
    return (phase, "" if merged else part, None if merged else index, operator)


def flops_of(work: Mapping[Key, Work | Seen]) -> dict[Key, int]:
    return {key: value.flops for key, value in work.items() if value.flops}


@pytest.mark.parametrize(
    ("policy", "batch"), [("rows", 1), ("rows", 2), ("maps", 2), ("published", 2)]
)
@pytest.mark.parametrize("spec", SPECS)
def test_analytic_flops_are_the_counted_ones(
    model: Model, spec: str, policy: Policy, batch: int
) -> None:
    """Operator class by operator class, layer by layer, to the unit."""
    skip_unsupported(model, spec)
    method = affordable(methods.parse(spec))
    given = shown(model, method)
    inputs = tpprof.inputs(model, method=method, **given, batch_size=batch, new_tokens=3)
    both = sides(model, inputs, spec, policy)
    assert flops_of(both.derived) == flops_of(both.shown)
    assert sum(flops_of(both.derived).values()) == both.counted


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "spec", ["vanilla", "fastervlm", "visionzip", "vispruner", "tome", "fastv"]
)
def test_dinov2s_tower_is_counted_to_the_unit(spec: str, policy: Policy) -> None:
    model = tpprof.load(MICRO_DINO, device="cpu", seed=1)
    both = sides(model, tpprof.inputs(model, image_size=SIZE, batch_size=2), spec, policy)
    assert flops_of(both.derived) == flops_of(both.shown)
    assert sum(flops_of(both.derived).values()) == both.counted
    for key, work in regrouped(both.derived, Work()).items():
        seen = regrouped(both.shown, Seen())[key]
        assert (work.read_bytes, work.written_bytes) <= (seen.read, seen.written), key


@pytest.mark.parametrize("options", [{"layout": "anyres"}, {"visual_tokens": 77}])
def test_other_inputs_are_counted_too(model: Model, options: dict[str, object]) -> None:
    inputs = tpprof.inputs(model, image_size=SIZE, **options)
    both = sides(model, inputs, "fastv")
    assert flops_of(both.derived) == flops_of(both.shown)
    assert sum(flops_of(both.derived).values()) == both.counted


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("spec", ["vanilla", "fastv-alpha", "pooling", "sparsevlm", "mustdrop"])
def test_bytes_and_launches_are_the_shown_ones_or_a_floor_under_them(
    model: Model, spec: str, policy: Policy, dtype: str
) -> None:
    skip_unsupported(model, spec)
    model = model if dtype == "float32" else in_half(model.shape)
    both = sides(model, tpprof.inputs(model, image_size=SIZE, batch_size=2), spec, policy)
    shown = regrouped(both.shown, Seen())
    for key, work in regrouped(both.derived, Work()).items():
        derived = (work.read_bytes, work.written_bytes, work.launches)
        seen = (shown[key].read, shown[key].written, shown[key].launches)
        if key[3] in EXACT:
            assert derived == seen, key
        else:
            assert all(map(operator.le, derived, seen)), (key, derived, seen)


def regrouped(work: Mapping[Key, Any], none: Any) -> dict[Key, Any]:
    """Attention maps with the element-wise operators, of which their softmax is one for torch."""
    found: dict[Key, Any] = {}
    for (*part, name), value in work.items():
        key: Any = (*part, "elementwise" if name == "attention map" else name)
        found[key] = found.get(key, none) + value
    return found


@functools.cache
def in_half(shape: Shape) -> Model:
    return tpprof.load(shape, device="cpu", dtype="bfloat16", seed=1)


def test_causal_attention_is_counted_apart(llava_next: Model) -> None:
    inputs = tpprof.inputs(llava_next, image_size=SIZE)
    both = sides(llava_next, inputs, "fastv", "maps", keep="100%")
    text, length = llava_next.shape.text, inputs.request.length
    kernel = both.derived["prefill", "layer", 1, "attention"]
    assert kernel.flops == 4 * length**2 * text.hidden
    assert kernel.causal_flops == sum(4 * (row + 1) * text.hidden for row in range(length))
    full_map = both.derived["prefill", "layer", 0, "attention map"]
    assert full_map.causal_flops == full_map.flops == kernel.flops
    assert full_map.written_bytes - kernel.written_bytes == 2 * text.heads * length**2 * 4


def test_kv_bytes_follow_from_the_cached_tokens(model: Model) -> None:
    skip_unsupported(model, "mustdrop")
    inputs = tpprof.inputs(model, image_size=SIZE, batch_size=2)
    trace = tpprof.forward(model, inputs, "mustdrop:keep=1/2")
    derived = cost.kv_bytes(model.shape, inputs.request, trace.ledger.cached, itemsize=4)
    assert derived == trace.kv_bytes.prefill


def _share(spec: str, after: int = 25) -> float:
    """FLOPs of prefill over vanilla's, on LLaVA-NeXT-7B with 35 + `after` text tokens."""
    shape = SHAPES["llava-next-7b"]
    lengths = request(shape, before=35, after=after, size=(672, 672))

    def prefill(text: str) -> int:
        plan = methods.parse(text).plan(lengths)
        items = cost.items(shape, lengths, plan, planned(plan, lengths, "maps"), itemsize=2)
        return cost.total((i for i in items if i.operator != "select"), "prefill").flops

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
    items = cost.items(shape, lengths, plan, planned(plan, lengths, "rows"), itemsize=2)
    vision = cost.total(items, "vision").flops
    projector = sum(item.work.flops for item in items if item.operator == "projector")
    assert cost.total(items, "prefill").flops == pytest.approx(2 * 21.3e12, rel=0.005)
    assert vision - projector == pytest.approx(2 * 0.95e12, rel=0.01)
    assert projector == pytest.approx(2 * 0.06e12, rel=0.02)


def test_fresh_bytes_of_a_step_are_weights_and_cache() -> None:
    """By hand: every weight of the decoder layers and of the head, and the keys and values that
    lie in the cache; none of the activations."""
    shape, batch, keys = MICRO["qwen2-vl"], 3, 50
    text = shape.text
    done = layers.decoder_layer(text, batch, 1, keys, 4)
    fresh = sum(work.fresh_bytes for work in done.values())
    width, kv, inner = text.hidden, text.kv_width, text.intermediate
    weights = 2 * width * width + width + 2 * (width * kv + kv) + 3 * width * inner
    assert fresh == 4 * (weights + 2 * batch * (keys - 1) * kv)
    head = layers.head(text, batch, 4)
    assert sum(work.fresh_bytes for work in head.values()) == 4 * width * text.vocabulary
