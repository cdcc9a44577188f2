"""PyramidDrop's selection, worked out again by transformers' own layers."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from micro_models import SIZE
from torch import Tensor
from transformers import DynamicCache

import tpprof
from tpprof import methods
from tpprof.methods import Request
from tpprof.methods.contract.policies import POLICIES
from tpprof.profiler.models.model import Model
from tpprof.tests.methods.reference import Truth, _head, _layer, eager, observe

LAYERS = (2, 4, 6)  # 8, 16, 24 of 32 layers, scaled to 8


def walk(truth: Truth, counts: dict[int, int]) -> tuple[list[list[int]], Tensor]:
    """The visual tokens that enter each layer, and the logits at the last position."""
    language = truth.model.module.model.language_model
    hidden, kept, rope = truth.hidden[0][None], torch.arange(truth.visual), truth.inputs.positions
    after, entering = len(truth.hidden[0]) - truth.stop, []
    with eager(truth.model):
        for number, layer in enumerate(language.layers):
            if number in counts:
                tables = language.rotary_emb(hidden, rope)
                _, maps = _layer(layer, hidden, tables, DynamicCache())
                stop = hidden.shape[1] - after
                row = maps[-1, truth.start : stop]
                chosen = row.topk(counts[number]).indices.sort().values
                place = torch.cat(
                    [
                        torch.arange(truth.start),
                        truth.start + chosen,
                        torch.arange(stop, hidden.shape[1]),
                    ]
                )
                hidden, kept = hidden[:, place], kept[chosen]
                rope = rope[..., : len(place)] if rope.dim() == 2 else rope[..., place]
            entering.append(kept.tolist())
            hidden, _ = _layer(layer, hidden, language.rotary_emb(hidden, rope), DynamicCache())
            if number < len(truth.deep):
                stop = hidden.shape[1] - after
                hidden[0, truth.start : stop] += truth.deep[number][kept]
        return entering, _head(truth.model, hidden)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("keep", ["15/32", "1/3"])
def test_the_last_token_chooses_by_the_layer_to_come(model: Model, keep: str, policy: str) -> None:
    truth = observe(model, tpprof.inputs(model, image_size=SIZE))
    plan = methods.parse(f"pyramiddrop:keep={keep}").plan(truth.inputs.request)
    counts = {stage.layer: stage.tokens or 0 for stage in plan.stages}
    assert tuple(counts) == LAYERS
    kept, logits = walk(truth, counts)
    trace = tpprof.forward(model, truth.inputs, f"pyramiddrop:keep={keep}", attention=policy)
    assert [row[0].tolist() for row in trace.kept] == kept
    torch.testing.assert_close(trace.logits[0], logits, rtol=1e-4, atol=1e-5)


def test_published_counts_are_halves() -> None:
    request = Request(32, 4096, 35, 25, (methods.Segment(24, 24),))
    plan = methods.parse("pyramiddrop").plan(request)
    assert [(stage.layer, stage.tokens) for stage in plan.stages] == [(8, 288), (16, 144), (24, 72)]
    assert sum(plan.visual_per_layer(request)) / 32 == 270
    for share in (Fraction(1, 3), Fraction(3, 5)):
        counts = methods.parse(f"pyramiddrop:keep={share}").plan(request).visual_per_layer(request)
        assert sum(counts) / 32 == pytest.approx(576 * share, rel=0.01)


def test_a_mean_that_cannot_be_met() -> None:
    request = Request(32, 4096, 35, 25, (methods.Segment(24, 24),))
    with pytest.raises(methods.BudgetError, match=r"the least is 144\.8"):
        methods.parse("pyramiddrop:keep=1/9").plan(request)
