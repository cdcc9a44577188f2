"""FasterVLM's selection, worked out again from the attention of transformers' towers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from micro_models import MICRO, SIZE, load
from torch import Tensor

import tpprof
from tpprof.methods import UnsupportedError, parse
from tpprof.methods.contract.policies import POLICIES
from tpprof.profiler.models.model import Model
from tpprof.tests.methods.reference import (
    Truth,
    before_decoder,
    laid_out,
    observe,
    run,
    shuffled,
    tiles_at,
)


def saliency(truth: Truth) -> Tensor:
    """What the class token attends to each patch [tiles, n], in the layer whose output is
    projected; without one, what all patches do, by merged token."""
    request = truth.inputs.request
    attention = tiles_at(truth, request.tower.feature_layer).attention
    if request.tower.square:
        return shuffled(truth, attention)
    merger = request.merger
    return attention.view(len(attention), -1, merger).mean(-1) if merger > 1 else attention


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("keep", [5, 18])
def test_each_tile_keeps_what_its_class_token_attends_to(
    model: Model, keep: int, policy: str
) -> None:
    inputs = tpprof.inputs(model, image_size=SIZE)
    if inputs.order is not None:
        pytest.skip("its parts are no tiles: see below")
    wanted, first = [], 0
    truth = observe(model, inputs)
    keep = min(keep, inputs.request.segments[0].tokens // 2)
    for scores in saliency(truth):
        wanted += (scores.topk(keep).indices.sort().values + first).tolist()
        first += len(scores)
    spec = f"fastervlm:keep={len(wanted)}"
    pruned = run(truth, spec, policy)  # type: ignore[arg-type]
    walked = before_decoder(truth, torch.tensor(wanted))
    assert all(kept[0].tolist() == wanted for kept in pruned.trace.kept)
    for found, expected in (
        (pruned.trace.logits[0], walked.logits),
        (pruned.trace.step_logits[0, 0], walked.step_logits),
        (pruned.cosines[0], walked.cosines[0]),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_in_windows_a_patch_is_seen_by_its_window_alone() -> None:
    """Where the last layer of a tower is windowed, the mean over all patches counts nothing from
    beyond a window: scores and what is kept are those of the windows."""
    micro = MICRO["qwen2.5-vl"]
    windowed = replace(micro, vision=replace(micro.vision, whole_layers=(0,)))
    model = tpprof.load(windowed, device="cpu", seed=1)
    inputs = tpprof.inputs(model, image_size=(168, 140), batch_size=2)
    assert inputs.request.tower.lengths(3) == (64, 16, 32, 8)
    truth = observe(model, tpprof.inputs(model, image_size=(168, 140)))
    attention = tiles_at(truth, 3).attention
    torch.testing.assert_close(attention.sum(), torch.tensor(1.0))
    wanted = saliency(truth)[0].topk(9).indices.sort().values
    for policy in POLICIES:
        kept = tpprof.forward(model, inputs, "fastervlm:keep=9", attention=policy).kept[0]
        assert kept.tolist() == [wanted.tolist()] * 2


@pytest.mark.parametrize("architecture", ["llava-next", "llava-onevision"])
def test_under_anyres_newlines_go_first(architecture: str) -> None:
    model = load(architecture)
    inputs = tpprof.inputs(model, image_size=SIZE, layout="anyres")
    assert inputs.order is not None
    base, whole = inputs.request.segments
    scores = laid_out(observe(model, inputs), saliency(observe(model, inputs)), -math.inf)
    count = (base.tokens + whole.tokens) // 3
    first = round(count * base.tokens / (base.tokens + whole.tokens))
    wanted = [
        *scores[: base.tokens].topk(first).indices.sort().values.tolist(),
        *(scores[base.tokens :].topk(count - first).indices.sort().values + base.tokens).tolist(),
    ]
    kept = tpprof.forward(model, inputs, f"fastervlm:keep={count}").kept[0][0]
    assert kept.tolist() == wanted
    assert not set(kept.tolist()) & set(
        (inputs.order == inputs.order.max()).nonzero().flatten().tolist()
    )


def test_the_decoder_counts_anew_and_the_projector_sees_all() -> None:
    model = load("llava")
    inputs = tpprof.inputs(model, image_size=SIZE)
    trace = tpprof.forward(model, inputs, "fastervlm:keep=9")
    assert trace.ledger.projector == 36
    assert trace.ledger.tokens == [35 + 9 + inputs.request.after] * 8


def test_without_a_tower_there_is_no_score() -> None:
    request = tpprof.inputs(load("llava"), visual_tokens=36).request
    with pytest.raises(UnsupportedError, match="give a picture"):
        parse("fastervlm").plan(request)
