"""FasterVLM's selection, worked out again from the attention of transformers' towers."""

from __future__ import annotations

import math

import pytest
import torch
from micro_models import SIZE, load
from torch import Tensor
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision

import tpprof
from tpprof.methods import UnsupportedError, parse
from tpprof.methods.contract.policies import POLICIES
from tpprof.methods.engine.decoder import Inputs
from tpprof.profiler.models.model import Model
from tpprof.tests.methods.reference import before_decoder, clip, eager, observe, run


def saliency(model: Model, inputs: Inputs) -> list[Tensor]:
    """What the class token attends to each patch of a tile, in the layer whose output is
    projected; without one, what all patches do, by merged token."""
    if model.shape.architecture == "qwen2-vl":
        return [_received(model, inputs)]
    with eager(model):
        attention = clip(model, inputs).attentions[-2]
    return list(attention.mean(1)[:, 0, 1:])


def _received(model: Model, inputs: Inputs) -> Tensor:
    visual, seen = model.module.model.visual, []

    def attend(module, args, kwargs):  # type: ignore[no-untyped-def]
        states = args[0] if args else kwargs["hidden_states"]
        query, key, _ = module.qkv(states).view(len(states), 3, module.num_heads, -1).unbind(1)
        query, key = apply_rotary_pos_emb_vision(query, key, *kwargs["position_embeddings"])
        scores = torch.einsum("qhd,khd->hqk", query, key) * query.shape[-1] ** -0.5
        seen.append(scores.softmax(-1).mean((0, 1)))

    hook = visual.blocks[-1].attn.register_forward_pre_hook(attend, with_kwargs=True)
    with eager(model):
        visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"])
    hook.remove()
    return seen[0].view(-1, 4).mean(1)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("keep", [5, 18])
def test_each_tile_keeps_what_its_class_token_attends_to(
    model: Model, keep: int, policy: str
) -> None:
    inputs = tpprof.inputs(model, image_size=SIZE)
    wanted, first = [], 0
    for scores in saliency(model, inputs):
        wanted += (scores.topk(keep).indices.sort().values + first).tolist()
        first += len(scores)
    spec = f"fastervlm:keep={len(wanted)}"
    truth = observe(model, inputs)
    pruned = run(truth, spec, policy)  # type: ignore[arg-type]
    walked = before_decoder(truth, torch.tensor(wanted))
    assert all(kept[0].tolist() == wanted for kept in pruned.trace.kept)
    for found, expected in (
        (pruned.trace.logits[0], walked.logits),
        (pruned.trace.step_logits[0, 0], walked.step_logits),
        (pruned.cosines[0], walked.cosines[0]),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_under_anyres_newlines_go_first() -> None:
    model = load("llava-next")
    inputs = tpprof.inputs(model, image_size=SIZE, layout="anyres")
    assert inputs.order is not None
    base, whole = inputs.request.segments
    scores = torch.cat([*saliency(model, inputs), torch.tensor([-math.inf])])[inputs.order]
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
