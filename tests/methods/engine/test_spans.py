"""Requests of several pictures, with text between them: against transformers, and by hand."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from micro_models import PRUNING, affordable, load
from torch import Tensor

import tpprof
from tpprof import methods
from tpprof.methods import (
    Entering,
    Keep,
    Method,
    Plan,
    Request,
    Segment,
    Stage,
    Tower,
    View,
)
from tpprof.methods.contract.arrangement import Arrangement, arranged, gathered
from tpprof.methods.contract.plan_checks import plan_for
from tpprof.methods.engine.decoder import Inputs
from tpprof.methods.engine.ledger import planned
from tpprof.profiler.cost.request import kv_bytes
from tpprof.profiler.models.model import Model
from tpprof.profiler.models.shapes import ShapeError
from tpprof.tests.methods.reference import eager
from tpprof.tests.profiler.cost.test_cost import flops_of, sides

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llava": ("llava", {"image_size": ((84, 84),) * 3}),
    "llava-next": (
        "llava-next",
        {"image_size": ((168, 168), (84, 168), (100, 60)), "layout": "anyres"},
    ),
    "qwen2-vl": ("qwen2-vl", {"image_size": ((168, 168),) * 2}),
    "of several sizes": ("qwen2-vl", {"image_size": ((168, 168), (84, 112), (168, 84))}),
    "in windows": ("qwen2.5-vl", {"image_size": ((168, 168), (84, 140), (168, 84))}),
    "tiles and thumbnails": ("internvl", {"image_size": ((168, 168), (84, 168), (60, 30))}),
    "tiles with newlines": ("llava-onevision", {"image_size": ((168, 168), (84, 168), (60, 30))}),
    "frames with numbers": ("internvl", {"frames": 3}),
    "frames in a row": ("llava-onevision", {"frames": 4, "image_size": ((90, 120),)}),
    "with DeepStack": ("qwen3-vl", {"image_size": ((168, 168), (84, 112), (168, 84))}),
}
UNSUPPORTED = ("globalcom2", "tome")
IN_TOWER = ("fastervlm", "holov", "mustdrop", "visionzip", "vispruner", "vscan")
TOWER = {("of several sizes", name) for name in IN_TOWER} | {("frames in a row", "mustdrop")}
"""Methods that cannot decide in a tower whose pictures are of several sizes, or are resampled."""
every_case = pytest.mark.parametrize("case", CASES)


def request_of(case: str, **more: Any) -> tuple[Model, Inputs]:
    name, options = CASES[case]
    model = load(name)
    return model, tpprof.inputs(model, **{"new_tokens": 4, "batch_size": 2, **options, **more})


@every_case
def test_vanilla_is_what_transformers_gives(case: str) -> None:
    model, inputs = request_of(case)
    trace = tpprof.forward(model, inputs)
    with torch.no_grad():
        expected = model.module(**inputs).logits[:, -1]
        mask = torch.ones_like(inputs["input_ids"])
        tokens = model.module.generate(
            **inputs, attention_mask=mask, max_new_tokens=4, min_new_tokens=4, do_sample=False
        )
    assert torch.allclose(trace.logits, expected, atol=1e-4)
    assert torch.equal(trace.tokens, tokens[:, -4:])
    options = CASES[case][1]
    parted = "frames" not in options or case == "frames with numbers"
    shown = options.get("frames") or len(options["image_size"])
    assert len(inputs.request.spans) == (shown if parted else 1)
    assert inputs.request.frames == options.get("frames", 0)


@functools.cache
def pruned_by_hand(
    case: str, layer: int, kept: int, among: tuple[int, int] = (0, 10**6)
) -> tuple[Tensor, Tensor]:
    """FastV by transformers' own layers: which visual tokens [B, n] stay before `layer`, by the
    mean over heads of the last token's row in the layer before, and the logits [B, words]. among:
    the visual tokens that are asked for."""
    model, inputs = request_of(case)
    with eager(model):
        whole = model.module(**inputs, output_attentions=True, output_hidden_states=True)
        visual = inputs["input_ids"] == model.image_token
        row = whole.attentions[layer - 1].mean(1)[:, -1]
        numbers = visual.cumsum(-1) - 1
        wanted = visual & (numbers >= among[0]) & (numbers < among[1])
        best = row.masked_fill(~wanted, -1).topk(kept, -1).indices.sort(-1).values
        stays = (~visual).scatter(1, best, True)
        hidden = whole.hidden_states[layer][stays].view(
            len(stays), -1, whole.hidden_states[0].shape[-1]
        )
        cos, sin = model.rotary(hidden, inputs.positions)
        length = hidden.shape[1]
        cos, sin = (
            table.expand(len(stays), -1, -1)[stays].view(len(stays), length, -1)
            for table in (cos, sin)
        )
        causal = torch.full((length, length), float("-inf")).triu(1)[None, None]
        for module in model.layers[layer:]:
            hidden = module(hidden, attention_mask=causal, position_embeddings=(cos, sin))
        logits = model.head(hidden[:, -1:])[:, 0]
    return numbers.gather(1, best), logits


@pytest.mark.parametrize("case", ["llava", "llava-next", "of several sizes"])
def test_fastv_prunes_all_pictures_together(case: str) -> None:
    model, inputs = request_of(case)
    kept, logits = pruned_by_hand(case, 3, 20)
    trace = tpprof.forward(model, inputs, "fastv:keep=20,layer=3")
    assert torch.equal(trace.kept[3].sort(-1).values, kept)
    assert torch.allclose(trace.logits, logits, atol=1e-4)


def test_deepstack_features_go_with_their_tokens() -> None:
    """What is pruned before the decoder, given to transformers' own decoder with the features of
    the tokens that stay."""
    model, inputs = request_of("with DeepStack", batch_size=1)
    core = model.module.model
    with torch.no_grad():
        trace = tpprof.forward(model, inputs, "divprune:keep=20")
        seen = core.visual(
            inputs["pixel_values"], grid_thw=inputs["image_grid_thw"], return_dict=True
        )
        visual = inputs["input_ids"][0] == model.image_token
        embedded = core.get_input_embeddings()(inputs["input_ids"])
        embedded[0, visual] = seen.pooler_output
        kept = trace.kept[0][0]
        stays = ~visual
        stays[visual.nonzero()[kept, 0]] = True
        out = core.language_model(
            inputs_embeds=embedded[:, stays],
            position_ids=inputs.positions[:, :, stays],
            visual_pos_masks=visual[None, stays],
            deepstack_visual_embeds=[features[kept] for features in seen.deepstack_features],
        )
        expected = model.head(out.last_hidden_state[:, -1:])[:, 0]
    assert len(seen.deepstack_features) == 3
    assert len(kept) == 20
    assert torch.allclose(trace.logits, expected, atol=1e-4)


@pytest.mark.parametrize("name", PRUNING)
@pytest.mark.parametrize(
    "case", ["llava", "of several sizes", "tiles with newlines", "frames in a row"]
)
def test_every_method_does_as_planned_or_says_why_not(case: str, name: str) -> None:
    model, inputs = request_of(case, batch_size=1)
    method = affordable(methods.parse(name))
    if name in UNSUPPORTED or (case, name) in TOWER:
        with pytest.raises(methods.UnsupportedError, match=r"pictures|merged|crops"):
            plan_for(method, inputs.request)
        return
    plan = plan_for(method, inputs.request)
    trace = tpprof.forward(model, inputs, method)
    expected = planned(plan, inputs.request, "rows")
    assert trace.ledger == expected
    sizes = kv_bytes(model.shape, inputs.request, expected.cached, 4)
    assert trace.kv_bytes.prefill == sizes


@pytest.mark.parametrize("spec", ["vanilla", "fastv", "sparsevlm", "pyramiddrop"])
@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case not in ("llava-next", "qwen2-vl", "frames with numbers")],
)
def test_flops_are_torchs_to_the_unit(case: str, spec: str) -> None:
    model, inputs = request_of(case, batch_size=1, new_tokens=3)
    both = sides(model, inputs, spec)
    assert flops_of(both.derived) == flops_of(both.shown)
    assert sum(flops_of(both.derived).values()) == both.counted


class EachPicture(Method):
    """Keeps the first tokens of each picture, and looks at what the view says of them."""

    name = "each-picture"

    def plan(self, request: Request) -> Plan:
        return Plan([Stage(Entering(2), 4 * len(request.spans))], positions="keep")

    def decide(self, view: View, stage: Stage) -> Keep:
        places = torch.arange(view.count).expand_as(view.span)
        first = torch.stack([(view.span == n).long().argmax(-1) for n in range(3)], -1)
        assert torch.equal(view.span.gather(1, first), torch.arange(3).expand_as(first))
        assert (view.frame == -1).all()
        index = (first[..., None] + places[0, :4]).flatten(1)
        return Keep(index)


def test_each_picture_keeps_its_share() -> None:
    model, inputs = request_of("llava")
    trace = tpprof.forward(model, inputs, EachPicture())
    assert trace.kept[2].tolist() == [[0, 1, 2, 3, 36, 37, 38, 39, 72, 73, 74, 75]] * 2
    assert trace.ledger.tokens[2] == inputs.request.text + 12


@pytest.mark.parametrize("counts", [(3, 0, 2), (1, 1, 1), (0, 4, 1)])
def test_an_arrangement_is_what_a_list_gives(counts: tuple[int, int, int]) -> None:
    """Text tokens of three gaps and visual ones of two spans, chosen in odd orders."""
    first, between, after = counts
    request = Request(
        layers=1,
        hidden=1,
        before=first,
        after=after,
        segments=(Segment(2, 2), Segment(1, 3)),
        breaks=((1, between),),
    )
    whole = arranged(request, 2, torch.device("cpu"))
    assert (whole.count, whole.start) == (7, first)
    sequence = torch.arange(request.length)[None].repeat(2, 1)
    index = torch.tensor([[6, 1, 0, 4], [5, 3, 2, 6]])
    left = whole.kept(index)
    visual = gathered(whole.visual(sequence), index, 1)
    joined = whole.joined(sequence, visual, left)
    spans = [range(first, first + 4), range(first + 4 + between, first + 7 + between)]
    places = [*spans[0], *spans[1]]
    for row, chosen in zip(joined.tolist(), index.tolist(), strict=True):
        wanted = [*range(first), *(places[n] for n in chosen if n < 4)]
        wanted += [*range(first + 4, first + 4 + between), *(places[n] for n in chosen if n >= 4)]
        assert row == [*wanted, *range(first + 7 + between, request.length)]
    assert torch.equal(left.visual(joined), visual)
    again = left.kept(torch.tensor([[3, 0], [1, 2]]))
    assert torch.equal(again.visual(left.joined(joined, visual[:, :2], again)), visual[:, :2])


def test_one_span_costs_no_indices() -> None:
    request = Request(layers=1, hidden=1, before=2, after=1, segments=(Segment(2, 2),))
    assert arranged(request, 1, torch.device("cpu")) == Arrangement(2, 6)


def test_a_video_is_refused_by_name_where_a_model_takes_none() -> None:
    with pytest.raises(ShapeError, match="micro-llava takes no video"):
        tpprof.inputs(load("llava"), frames=4)


def test_a_share_for_each_picture_is_the_best_of_each() -> None:
    model, inputs = request_of("of several sizes")
    sizes = [span.tokens for span in inputs.request.spans]
    assert sizes == [36, 12, 18]
    trace = tpprof.forward(model, inputs, "fastv:keep=33,layer=3,per_picture=true")
    kept = trace.kept[3]
    for a, b, share in ((0, 36, 18), (36, 48, 6), (48, 66, 9)):
        best, _ = pruned_by_hand("of several sizes", 3, share, (a, b))
        inside = torch.stack([row[(row >= a) & (row < b)] for row in kept])
        assert torch.equal(inside, best)


def test_a_windowed_tower_is_not_told_one_order_for_pictures_of_two_forms() -> None:
    """A landscape and a portrait picture have as many patches and windows, in other orders."""
    inputs = tpprof.inputs(load("qwen2.5-vl"), image_size=((168, 112), (112, 168)))
    tower = inputs.request.encoder
    assert tower is not None
    assert (tower.tiles, tower.sequences) == (1, (96, 96))
    with pytest.raises(methods.UnsupportedError, match="of several sizes"):
        methods.parse("fastervlm").plan(inputs.request)
    alike = tpprof.inputs(load("qwen2.5-vl"), image_size=((168, 112),) * 2).request
    assert alike.tower.tiles == 2


class InTower(Method):
    """Drops tokens in the tower."""

    name = "in-tower"

    def plan(self, request: Request) -> Plan:
        return Plan([Stage(Tower(1), 20)])

    def decide(self, view: View, stage: Stage) -> Keep | None:
        return None


@pytest.mark.parametrize("name", ["llava", "llava-next"])
def test_why_nothing_is_dropped_in_the_tower_is_said(name: str) -> None:
    request = tpprof.inputs(load(name), image_size=((84, 84),) * 2).request
    with pytest.raises(methods.InputError, match="the prompt holds several pictures"):
        plan_for(InTower(), request)


def test_shares_by_picture_behind_another_method_are_refused_when_planned() -> None:
    inputs = tpprof.inputs(load("llava"), image_size=((84, 84),) * 2)
    spec = "fastv:keep=40,layer=2+fastv:keep=20,layer=4,per_picture=true"
    with pytest.raises(methods.UnsupportedError, match="every token"):
        methods.parse(spec).plan(inputs.request)
