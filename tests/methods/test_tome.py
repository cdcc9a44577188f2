"""ToMe worked out again: pair by pair, through transformers' own modules."""

from __future__ import annotations

import math

import pytest
import torch
from micro_models import SIZE, load
from torch import Tensor

import tpprof
from tpprof import methods
from tpprof.methods import UnsupportedError
from tpprof.profiler.models.model import Model
from tpprof.tests.methods.reference import clip, eager, project


def merged(
    metric: Tensor,
    states: Tensor,
    sizes: Tensor,
    members: list[list[int]],
    pairs: int,
    fixed: int | None = None,
) -> tuple[list[int], list[int], Tensor, Tensor, list[list[int]]]:
    """States [n, d] with the most alike pairs of even and odd places joined, at the odd ones; the
    even place `fixed` is of no pair. Which even and odd places stay, and the states, sizes and
    members of all places."""
    unit = metric / metric.norm(dim=-1, keepdim=True)
    alike = unit @ unit.T
    count = len(states)
    edges = []
    for even in set(range(0, count, 2)) - {fixed}:
        partner = max(range(1, count, 2), key=lambda odd: float(alike[even, odd]))
        edges.append((float(alike[even, partner]), even, partner))
    groups = [[place] for place in range(count)]
    gone = sorted(edges, reverse=True)[:pairs]
    for _, even, odd in gone:
        groups[odd].append(even)
    means = [(states[of] * sizes[of][:, None]).sum(0) / sizes[of].sum() for of in groups]
    grown = torch.stack([sizes[of].sum() for of in groups])
    joined = [[one for place in of for one in members[place]] for of in groups]
    stay = [even for even in range(0, count, 2) if even not in {one for _, one, _ in gone}]
    return stay, list(range(1, count, 2)), torch.stack(means), grown, joined


def tower(model: Model, inputs: tpprof.methods.engine.decoder.Inputs, counts: list[int]) -> Tensor:
    """The projected tokens [tiles * n, d] of CLIP with pairs merged between attention and FFN.

    The class token is dealt out with the patches and never merged, and each block leaves what stays
    of the even places before the odd ones, for the next to deal out.
    """
    layers = model.module.model.vision_tower.encoder.layers
    found = []
    with eager(model):
        entering = clip(model, inputs).hidden_states[0]
        for tile in entering:
            hidden, sizes = tile, torch.ones(len(tile))
            members = [[place] for place in range(len(sizes))]
            for layer, count in zip(layers, counts, strict=False):
                attention, normed = layer.self_attn, layer.layer_norm1(hidden)
                heads, width = attention.num_heads, normed.shape[-1] // attention.num_heads
                query, key, value = (
                    proj(normed).view(-1, heads, width).transpose(0, 1)
                    for proj in (attention.q_proj, attention.k_proj, attention.v_proj)
                )
                weights = (query @ key.transpose(1, 2) / math.sqrt(width) + sizes.log()).softmax(-1)
                hidden = hidden + attention.out_proj((weights @ value).transpose(0, 1).flatten(1))
                pairs = len(hidden) - 1 - count
                stay, others, states, grown, joined = merged(
                    key.mean(0), hidden, sizes, members, pairs, fixed=0
                )
                left = stay + others
                hidden, sizes, members = states[left], grown[left], [joined[one] for one in left]
                hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
            in_order = sorted(range(len(members)), key=lambda place: members[place][0])
            found.append(hidden[in_order])
        return project(model, torch.stack(found))


@pytest.mark.parametrize("architecture", ["llava", "llava-next"])
@pytest.mark.parametrize(
    ("left", "counts"), [(24, [32, 28, 24]), (18, [30, 24, 18]), (17, [29, 23, 17])]
)
def test_in_the_tower(architecture: str, left: int, counts: list[int]) -> None:
    model = load(architecture)
    inputs = tpprof.inputs(model, image_size=SIZE)
    request = inputs.request
    tiles = request.tower.tiles
    seen: list[Tensor] = []
    hook = model.layers[0].register_forward_pre_hook(
        lambda _module, args: seen.append(args[0]), with_kwargs=False
    )
    try:
        trace = tpprof.forward(model, inputs, f"tome:keep={left * tiles}")
    finally:
        hook.remove()
    assert [
        stage.tokens for stage in methods.parse(f"tome:keep={left * tiles}").plan(request).tower
    ] == counts
    wanted = tower(model, inputs, counts)
    start = request.before
    assert trace.visual_per_layer == [left * tiles] * 8
    torch.testing.assert_close(
        seen[0][0, start : start + left * tiles], wanted, rtol=1e-4, atol=1e-5
    )
    assert trace.ledger.projector == left


@pytest.mark.parametrize(("wanted", "passes"), [(30, [6]), (18, [18]), (5, [18, 9, 4])])
def test_before_the_decoder(model: Model, wanted: int, passes: list[int]) -> None:
    inputs = tpprof.inputs(model, image_size=SIZE)
    if inputs.request.visual != 36:
        pytest.skip("the passes are those of 36 tokens")
    whole: list[Tensor] = []
    hook = model.layers[0].register_forward_pre_hook(lambda _module, args: whole.append(args[0]))
    try:
        tpprof.forward(model, inputs, "vanilla")
        whole = whole[:1]
        trace = tpprof.forward(model, inputs, f"tome:where=projected,keep={wanted}")
    finally:
        hook.remove()
    start = inputs.request.before
    states, sizes = whole[0][0, start : start + 36], torch.ones(36)
    members = [[place] for place in range(36)]
    for pairs in passes:
        stay, others, *of_all = merged(states, states, sizes, members, pairs)
        left = sorted(stay + others)
        states, sizes = of_all[0][left], of_all[1][left]
        members = [of_all[2][one] for one in left]
    torch.testing.assert_close(whole[1][0, start : start + wanted], states, rtol=1e-4, atol=1e-5)
    assert [[] if place < 0 else [place] for place in trace.kept[0][0].tolist()] == [
        group if len(group) == 1 else [] for group in members
    ]


def test_what_cannot_be_merged_in_the_tower() -> None:
    anyres = tpprof.inputs(load("llava-next"), image_size=SIZE, layout="anyres")
    for inputs in (anyres, tpprof.inputs(load("qwen2-vl"), image_size=SIZE)):
        with pytest.raises(UnsupportedError, match="where=projected"):
            methods.parse("tome").plan(inputs.request)
    flat = tpprof.inputs(load("llava-next"), image_size=SIZE).request
    with pytest.raises(UnsupportedError, match="does not divide"):
        methods.parse("tome:keep=7").plan(flat)


def test_a_kernel_that_takes_no_weights_is_refused() -> None:
    model = load("llava")
    inputs = tpprof.inputs(model, image_size=SIZE)
    before, model.backend = model.backend, "sdpa-flash"
    try:
        with pytest.raises(UnsupportedError, match="sdpa-flash takes no weights"):
            tpprof.forward(model, inputs, "tome")
    finally:
        model.backend = before
