"""Which tokens every method must keep, worked out again from transformers' eager attention.

The rules are written from the papers' algorithms, apart from the package; `reference` runs the
model under them. Compared: the tokens kept, the sequence that enters every layer, its positions,
the caches' lengths, and the logits of prefill and of a decode step.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import pytest
import torch
from micro_models import PRUNING, SIZE, skip_unsupported
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

import tpprof
from tpprof import methods
from tpprof.methods.contract.policies import POLICIES
from tpprof.methods.engine.run import Trace
from tpprof.methods.sparsevlm import SparseVLM
from tpprof.profiler.models.model import Model
from tpprof.tests.methods.reference import (
    Choice,
    Decide,
    Run,
    Truth,
    Walk,
    class_keys,
    joined_keys,
    merge_windows,
    observe,
    observed,
    patch_keys,
    run,
    through_tower,
    walk,
)

CASES = [
    ("internvl", "flat"),
    ("llava", "flat"),
    ("llava-next", "flat"),
    ("llava-next", "anyres"),
    ("llava-onevision", "anyres"),
    ("qwen2-vl", "flat"),
    ("qwen2.5-vl", "flat"),
    ("qwen3-vl", "flat"),
]
pytestmark = pytest.mark.parametrize(("model", "layout"), CASES, indirect=["model"])

LAYERS = 8
LAYER = 2  # where the single-stage methods prune: by the attention of layer 1
# 2, 6, 15, 19 of 32 layers, scaled to 8
SPARSEVLM = {"1.0": (1, 2, 4, 5), "1.5": (1, 2, 4), "2.0": (1, 2, 4)}
MUSTDROP = (1, 2, 3, 4)  # 2, 6, 10, 14 of 32 layers, scaled to 8


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small lose time to a second thread, a lot of it on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def truth(model: Model, layout: str) -> Truth:
    return observed(model, layout)


def same(run: Run, walked: Walk) -> None:
    """Everything that the trace says and the decoder saw is what the walk gives."""
    trace = run.trace
    assert len(trace.kept) == len(walked.kept) == LAYERS
    for layer in range(LAYERS):
        assert trace.kept[layer][0].tolist() == walked.kept[layer].tolist(), f"layer {layer}"
    assert trace.visual_per_layer == [len(kept) for kept in walked.kept]
    for layer in range(LAYERS):
        close(run.hidden[layer], walked.hidden[layer])
        close(run.cosines[layer], walked.cosines[layer])
    close(trace.logits[0], walked.logits)
    close(trace.step_logits[0, 0], walked.step_logits)
    per_token = trace.kv_bytes.prefill[0] // walked.cached[0]
    assert trace.kv_bytes.prefill == [per_token * cached for cached in walked.cached]


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_the_walk_is_the_model_when_nothing_is_pruned(truth: Truth) -> None:
    walked = walk(truth, {}, compact=True)
    close(walked.logits, truth.logits)
    same(run(truth, "vanilla"), walked)


def best(scores: Tensor, count: int) -> Tensor:
    return scores.topk(count).indices.sort().values


def row(truth: Truth, query: int = -1) -> Tensor:
    """What `query` gives the visual tokens in the layer before LAYER."""
    return truth.maps[LAYER - 1][query, truth.start : truth.stop]


def balanced(truth: Truth, count: int, alpha: float) -> Tensor:
    def stretched(values: Tensor) -> Tensor:
        return (values - values.min()) / (values.max() - values.min())

    last = truth.hidden[LAYER][-1:]
    likeness = torch.nn.functional.cosine_similarity(truth.entering(LAYER), last, dim=1)
    score = alpha * stretched(row(truth)) + (1 - alpha) * (1 - stretched(likeness))
    return best(score, count)


def dagger(truth: Truth, keep: Fraction, reading: str) -> Tensor:
    merger = truth.inputs.request.merger
    share = 1 - (1 - keep) / merger if reading == "literal" else min(Fraction(1), merger * keep)
    return best(row(truth), round(truth.visual * share))


NINTH, THIRD = Fraction(1, 9), Fraction(1, 3)
FASTV: dict[str, Callable[[Truth], Tensor]] = {
    "fastv:keep=5": lambda t: best(row(t), 5),
    "fastv:keep=1/3": lambda t: best(row(t), t.visual // 3),
    "fastv-reverse:keep=1/3": lambda t: best(-row(t), t.visual // 3),
    "fastv-vis:keep=1/3": lambda t: best(row(t, t.stop - 1), t.visual // 3),
    "fastv-alpha:keep=7,alpha=0.5": lambda t: balanced(t, 7, 0.5),
    "fastv-alpha:keep=7,alpha=0.2": lambda t: balanced(t, 7, 0.2),
    "fastv-alpha:keep=7,alpha=0": lambda t: balanced(t, 7, 0),
    "fastv-alpha:keep=7,alpha=1": lambda t: best(row(t), 7),
    "fastv-dagger:keep=1/3": lambda t: dagger(t, THIRD, "literal"),
    "fastv-dagger:keep=1/9": lambda t: dagger(t, NINTH, "literal"),
    "fastv-dagger:keep=1/3,reading=patches": lambda t: dagger(t, THIRD, "patches"),
    "fastv-dagger:keep=1/9,reading=patches": lambda t: dagger(t, NINTH, "patches"),
}


def entering(truth: Truth, chosen: Tensor) -> Walk:
    """The model when `chosen` visual tokens go on to LAYER, at their own positions."""
    return walk(truth, {LAYER - 1: lambda _, x: Choice(chosen, x[chosen])}, compact=False)


@pytest.mark.parametrize("spec", FASTV)
def test_fastv_family(truth: Truth, spec: str) -> None:
    same(run(truth, f"{spec},layer={LAYER}"), entering(truth, FASTV[spec](truth)))


def windows(truth: Truth, height: int, width: int) -> list[Tensor]:
    """The visual tokens of every window, tile by tile, rows first; smaller at ragged edges."""
    found, base = [], 0
    for segment in truth.inputs.request.segments:
        grid = base + torch.arange(segment.tokens).view(segment.height, segment.width)
        base += segment.tokens
        found += [w.flatten() for rows in grid.split(height) for w in rows.split(width, 1)]
    return found


@pytest.mark.parametrize("side", [2, 3])
def test_fastv_window_keeps_one_a_window(truth: Truth, side: int) -> None:
    score, found = row(truth), windows(truth, side, side)
    if set(methods.quotas(len(found), [len(window) for window in found])) != {1}:
        pytest.skip("its windows are too uneven to have one token each")
    chosen = torch.stack([window[score[window].argmax()] for window in found]).sort().values
    spec = f"fastv-window:height={side},width={side},keep={len(found)},layer={LAYER}"
    same(run(truth, spec), entering(truth, chosen))


@pytest.mark.parametrize(("height", "width", "share"), [(3, 3, 0.27), (2, 3, 0.4), (4, 2, 0.13)])
def test_fastv_window_spreads_an_uneven_budget(
    truth: Truth, height: int, width: int, share: float
) -> None:
    """Every window keeps its share rounded down or up, up where the remainder is largest."""
    score, found, keep = row(truth), windows(truth, height, width), int(truth.visual * share)
    spec = f"fastv-window:height={height},width={width},keep={keep},layer={LAYER}"
    kept = run(truth, spec).trace.kept[LAYER][0]
    assert len(kept) == keep
    assert kept.tolist() == sorted(set(kept.tolist()))
    remainders: tuple[list[Fraction], list[Fraction]] = ([], [])
    for window in found:
        inside = window[torch.isin(window, kept)]
        assert inside.tolist() == window[best(score[window], len(inside))].tolist()
        quota = Fraction(keep * len(window), truth.visual)
        assert math.floor(quota) <= len(inside) <= math.ceil(quota)
        remainders[len(inside) - math.floor(quota)].append(quota - math.floor(quota))
    assert min(remainders[1], default=1) >= max(remainders[0], default=0)


def test_random(truth: Truth) -> None:
    def drawn(seed: int) -> list[int]:
        kept = run(truth, f"random:keep=1/3,layer={LAYER},seed={seed}").trace.kept
        assert all(len(kept[layer][0]) == truth.visual for layer in range(LAYER))
        assert all(torch.equal(kept[layer], kept[LAYER]) for layer in range(LAYER, LAYERS))
        return [int(index) for index in kept[LAYER][0]]

    draws = [drawn(seed) for seed in range(6)]
    for draw in draws:
        assert draw == sorted(set(draw))
        assert len(draw) == truth.visual // 3
        assert set(draw) <= set(range(truth.visual))
    assert drawn(0) == draws[0]
    assert len({tuple(draw) for draw in draws}) == 6
    assert len(set().union(*draws)) > 0.75 * truth.visual  # 1 - (2/3)^6 = 91 % to be expected


@pytest.mark.parametrize("feature", ["mean", "argmax-l1"])
@pytest.mark.parametrize("side", [2, 3])
def test_pooling(truth: Truth, side: int, feature: str) -> None:
    """Means stand in the order of their windows, tokens of largest L1 norm in their own."""
    visual, found = truth.entering(LAYER), windows(truth, side, side)
    places = torch.stack([window[visual[window].abs().sum(1).argmax()] for window in found])
    if feature == "mean":
        means = torch.stack([visual[window].mean(0) for window in found])
        choice = Choice(places, means, merged=len(places))
    else:
        places = places.sort().values
        choice = Choice(places, visual[places])
    spec = f"pooling:window={side},feature={feature},keep=1/2,layer={LAYER}"
    same(run(truth, spec), walk(truth, {LAYER - 1: lambda *_: choice}, compact=False))


def raters(truth: Truth) -> Tensor:
    """Flags of the tokens after the image that the image resembles more than average."""
    relevance = (truth.entering(0) @ truth.embeddings[truth.stop :].T).softmax(1).mean(0)
    return relevance > relevance.mean()


def clusters(states: Tensor, count: int) -> Tensor:
    """Density peaks: every token's nearest centre, the best centre first.

    Tokens that are each other's nearest tie: a draw of at most 1e-6, fixed by seed 0, decides.
    """
    draw = torch.rand(len(states), generator=torch.Generator().manual_seed(0))
    distance = (states[:, None] - states[None]).norm(dim=2) / math.sqrt(states.shape[1])
    density = (-distance.sort(1).values[:, :count].square().mean(1)).exp() + 1e-6 * draw
    denser = density[None] > density[:, None]
    separation = torch.where(denser, distance, math.inf).min(1).values
    separation[separation.isinf()] = distance.max()
    centres = (density * separation).topk(count).indices
    return distance[:, centres].argmin(1)


def recycled(pruned: int) -> tuple[int, int]:
    """Pruned tokens that are looked at again, and the merged tokens that they become."""
    pool = int(0.3 * pruned) + 1
    return pool, int(pool / 10) + 1


def sparsevlm(truth: Truth, count: Callable[[Tensor], int], recycle: bool = True) -> Decide:
    chosen = raters(truth)

    def decide(attention: Tensor, states: Tensor) -> Choice:
        rated = attention[chosen]
        kept = count(rated)
        order = rated.mean(0).argsort(descending=True)
        index = order[:kept].sort().values
        if kept == len(states) or not recycle:
            return Choice(index, states[index])
        pool, merged = recycled(len(states) - kept)
        again = order[kept:][:pool].sort().values
        nearest = clusters(states[again], merged)
        means = [states[again[nearest == cluster]].mean(0) for cluster in range(merged)]
        relevance = rated.mean(0)
        members = [again[nearest == cluster] for cluster in range(merged)]
        most_relevant = torch.stack([group[relevance[group].argmax()] for group in members])
        places = torch.cat([index, most_relevant])
        return Choice(places, torch.cat([states[index], torch.stack(means)]), merged)

    return decide


def exactly(count: int) -> Callable[[Tensor], int]:
    return lambda _: count


def sparsevlm_stages(truth: Truth, spec: str, recycle: bool) -> dict[int, Decide]:
    """The method says how many stay; which ones, and what the merged ones hold, is ours."""
    method, request = methods.parse(spec), truth.inputs.request
    assert isinstance(method, SparseVLM)
    leaving = [s for s in method.plan(request).stages if isinstance(s.site, methods.Leaving)]
    stages: dict[int, Decide] = {}
    before = truth.visual
    for stage, kept in zip(leaving, method.counts(request), strict=True):
        stages[stage.layer] = sparsevlm(truth, exactly(kept), recycle)
        before = kept + recycle * recycled(before - kept)[1]
        assert before == stage.tokens
    return stages


@pytest.mark.parametrize("recycle", ["true", "false"])
@pytest.mark.parametrize("version", ["1.0", "1.5"])
@pytest.mark.parametrize("keep", ["1/2", "1/3"])
def test_sparsevlm(truth: Truth, version: str, keep: str, recycle: str) -> None:
    spec = f"sparsevlm:keep={keep},version={version},recycle={recycle}"
    stages = sparsevlm_stages(truth, spec, recycle == "true")
    assert tuple(stages) == SPARSEVLM[version]
    assert 0 < int(raters(truth).sum()) < len(raters(truth))
    same(run(truth, spec), walk(truth, stages, compact=True))


def test_sparsevlm_raters_come_of_a_softmax(model: Model, layout: str) -> None:
    """With text so loud that the softmax chooses other raters than the products themselves."""
    loud = copy.deepcopy(model)
    with torch.no_grad():
        loud.module.get_input_embeddings().weight.mul_(1000)
    truth = observe(loud, tpprof.inputs(loud, image_size=SIZE, layout=layout))
    products = (truth.entering(0) @ truth.embeddings[truth.stop :].T).mean(0)
    assert not torch.equal(raters(truth), products > products.mean())
    spec = "sparsevlm:keep=1/2"
    same(run(truth, spec), walk(truth, sparsevlm_stages(truth, spec, True), compact=True))


@pytest.mark.parametrize(("scale", "bias"), [(1.0, 0.0), (1.7, 2.0), (0.4, 1.0)])
def test_sparsevlm_by_rank(truth: Truth, scale: float, bias: float) -> None:
    """rank * scale + bias tokens stay; a stage whose rank is its token count prunes nothing."""

    def count(rated: Tensor) -> int:
        rank, visual = int(torch.linalg.matrix_rank(rated)), rated.shape[1]
        return visual if rank == visual else min(int(rank * scale + bias), visual - 1)

    spec = f"sparsevlm:adaptive=true,scale={scale},bias={bias},keep=1/2"
    stages = dict.fromkeys(SPARSEVLM["1.0"], sparsevlm(truth, count))
    same(run(truth, spec), walk(truth, stages, compact=True))


@pytest.mark.parametrize("keep", ["1/2", "1/3"])
def test_sparsevlm_plus(truth: Truth, keep: str) -> None:
    """Version 2.0: attention by what positions alone would give, of the half of the heads that
    attend to the picture most; nothing is merged, and positions stay."""
    seen: dict[int, tuple[Tensor, tuple[Tensor, Tensor]]] = {}

    def see(module: Any, _args: Any, kwargs: Any, out: Any) -> None:
        seen[module.layer_idx] = out[1][0], kwargs["position_embeddings"]

    def prune(layer: int, count: int, attention: Tensor, states: Tensor) -> Choice:
        weights, (cos, sin) = seen[layer]
        ones = torch.ones(1, 1, *cos.shape[-2:])
        query, key = apply_rotary_pos_emb(ones, ones, cos, sin)
        gravity = query[0, 0] @ key[0, 0].T / math.sqrt(ones.shape[-1])
        assert weights.mean(0)[-len(attention) :, truth.start :][:, : len(states)].equal(attention)
        asking = len(gravity) - len(attention) + raters(truth).nonzero()[:, 0]
        rated = (weights / gravity)[:, asking, truth.start :][..., : len(states)]
        heard = rated.sum((1, 2)).topk(len(rated) // 2).indices
        index = best(rated[heard].mean((0, 1)), count)
        return Choice(index, states[index])

    spec = f"sparsevlm:keep={keep},version=2.0"
    plan = methods.parse(spec).plan(truth.inputs.request)
    counts = [(s.layer, s.tokens) for s in plan.stages if isinstance(s.site, methods.Leaving)]
    stages = {layer: functools.partial(prune, layer, count) for layer, count in counts}
    assert tuple(stages) == SPARSEVLM["2.0"]
    language = truth.model.module.model.language_model
    hooks = [
        language.layers[layer].self_attn.register_forward_hook(see, with_kwargs=True)
        for layer in stages
    ]
    try:
        walked = walk(truth, stages, compact=False)
    finally:
        for hook in hooks:
            hook.remove()
    same(run(truth, spec), walked)


def keys(truth: Truth) -> Tensor:
    skip_unsupported(truth.model, "mustdrop")
    if truth.model.shape.vision.dynamic:
        return patch_keys(truth)
    return joined_keys(truth) if truth.inputs.request.tower.square else class_keys(truth)


class MustDrop:
    """The data-dependent rule of the decoder, by thresholds; it follows where the keys go.

    saved: tokens that stayed for one reason alone, by reason.
    """

    def __init__(self, key: Tensor, share: float, weight: float) -> None:
        self.key, self.share, self.weight = key, share, weight
        self.saved = {"share": 0, "weight": 0, "key": 0}

    def __call__(self, attention: Tensor, states: Tensor) -> Choice:
        little = attention.sum(0) < self.share * attention.sum()
        faint = attention.max(0).values < self.weight
        for reason, alone in (
            ("share", ~little & faint & ~self.key),
            ("weight", little & ~faint & ~self.key),
            ("key", little & faint & self.key),
        ):
            self.saved[reason] += int(alone.sum())
        index = (~(little & faint) | self.key).nonzero()[:, 0]
        self.key = self.key[index]
        return Choice(index, states[index])


@pytest.mark.parametrize(("share", "quantile"), [(0.9, 0.65), (1.5, 0.35), (3.0, 0.65)])
def test_mustdrop_by_thresholds(truth: Truth, share: float, quantile: float) -> None:
    """Thresholds in units of an even share, and by the largest weights of the first stage."""
    attention = truth.maps[MUSTDROP[0]][truth.stop :, truth.start : truth.stop]
    share /= truth.visual
    weight = float(attention.max(0).values.quantile(quantile))
    rule = MustDrop(keys(truth), share, weight)
    first = rule(attention, truth.entering(MUSTDROP[0] + 1)).index
    assert rule.saved["share" if share * truth.visual < 1 else "weight"]
    spec = f"mustdrop:merge=0,global_threshold={share},individual_threshold={weight}"
    found = run(truth, spec)
    assert found.trace.kept[MUSTDROP[0] + 1][0].tolist() == first.tolist()
    rule = MustDrop(keys(truth), share, weight)
    walked = walk(truth, dict.fromkeys(MUSTDROP, rule), compact=True, compressed=True)
    same(found, walked)
    assert share * truth.visual < 2 or len(walked.kept[-1]) < len(first)
    text, cached = truth.embeddings.shape[0] - truth.visual, found.trace.kv_bytes.prefill
    whole, final = text + truth.visual, text + len(walked.kept[-1])
    assert cached == [cached[0]] + [cached[0] * final // whole] * (LAYERS - 1)


def test_mustdrop_never_drops_a_key(truth: Truth) -> None:
    skip_unsupported(truth.model, "mustdrop")
    kept = run(truth, "mustdrop:merge=0,global_threshold=1.01,individual_threshold=1.01").trace.kept
    for layer in range(MUSTDROP[0] + 1, LAYERS):
        assert kept[layer][0].tolist() == keys(truth).nonzero()[:, 0].tolist()


def test_mustdrop_by_solved_thresholds(truth: Truth) -> None:
    """One threshold a stage, for the share and for the largest weight alike."""
    skip_unsupported(truth.model, "mustdrop")
    found = run(truth, "mustdrop:merge=0,keep=1/2")
    rule = MustDrop(keys(truth), 0, 0)

    def by(threshold: float) -> Decide:
        def decide(attention: Tensor, states: Tensor) -> Choice:
            rule.share = rule.weight = threshold
            return rule(attention, states)

        return decide

    solved = {layer: by(found.trace.solved[f"layer {layer} threshold"]) for layer in MUSTDROP}
    same(found, walk(truth, solved, compact=True, compressed=True))
    assert abs(sum(len(kept[0]) for kept in found.trace.kept[1:]) / 7 - truth.visual / 2) < 6


@pytest.mark.parametrize("knob", ["merge", "similarity"])
def test_mustdrop_merges_windows(truth: Truth, knob: str) -> None:
    value = 0.5

    def count(likeness: Tensor) -> int:
        """Half of the windows; or those clearly more alike than the fourth of one tile."""
        nonlocal value
        if knob == "merge":
            return likeness.shape[1] // 2
        ranked = likeness.sort(1, descending=True).values
        third, fourth = ranked[ranked[:, 2].argmin(), 2:4].tolist()
        value = fourth + 0.05 * (third - fourth)
        return int((likeness >= value).sum(1).min())

    skip_unsupported(truth.model, "mustdrop")
    if not truth.inputs.request.tower.mergeable:
        kept = run(truth, f"mustdrop:{knob}={value},global_threshold=0").trace.kept[0]
        assert kept[0].tolist() == list(range(truth.visual)), "the grid is needed: nothing merges"
        return
    states, places = merge_windows(truth, count)
    tokens, key = through_tower(truth, states)
    tiles = truth.inputs.request.segments[0].tokens * torch.arange(len(places))[:, None]
    kept = torch.where(places < 0, places, places + tiles).flatten()
    assert 0 < int((kept < 0).sum()) < len(kept)
    parts = [truth.embeddings[: truth.start], tokens, truth.embeddings[truth.stop :]]
    share, weight = 2 / len(tokens), 0.1
    spec = f"mustdrop:{knob}={value},global_threshold={share},individual_threshold={weight}"
    stages = dict.fromkeys(MUSTDROP, MustDrop(key, share, weight))
    walked = walk(
        truth, stages, compact=True, compressed=True, embeddings=torch.cat(parts), kept=kept
    )
    assert len(walked.kept[-1]) < len(tokens)
    same(run(truth, spec), walked)


def policies(truth: Truth, spec: str) -> list[Trace]:
    layout = "anyres" if truth.inputs.order is not None else "flat"
    skip_unsupported(truth.model, spec, layout=layout)
    chosen = methods.with_keep(methods.parse(spec), "1/2")
    return [
        tpprof.forward(truth.model, truth.inputs, chosen, attention=policy) for policy in POLICIES
    ]


SPECS = [
    *PRUNING,
    "sparsevlm:version=1.5",
    "sparsevlm:version=2.0",
    "sparsevlm:adaptive=true",
]


@pytest.mark.parametrize("spec", SPECS)
def test_policies_select_the_same_tokens(truth: Truth, spec: str) -> None:
    rows, *others = policies(truth, spec)
    for other in others:
        assert len(other.kept) == len(rows.kept) == LAYERS
        assert all(torch.equal(a, b) for a, b in zip(rows.kept, other.kept, strict=True))
        close(other.logits, rows.logits)


@pytest.mark.parametrize("spec", ["fastv", "mustdrop", "sparsevlm"])
def test_policies_decode_alike(truth: Truth, spec: str) -> None:
    rows, *others = policies(truth, spec)
    for other in others:
        close(other.step_logits, rows.step_logits)


@pytest.mark.parametrize("spec", ["sparsevlm:keep=1/2", "mustdrop:keep=1/2"])
def test_policies_agree_on_later_requests(truth: Truth, layout: str, spec: str) -> None:
    """What the first request of a series solved holds for another text, whatever the policy."""
    skip_unsupported(truth.model, spec.partition(":")[0])
    solved: dict[str, dict[str, float]] = {policy: {} for policy in POLICIES}
    for seed in range(4):
        inputs = tpprof.inputs(truth.model, image_size=SIZE, layout=layout, seed=seed)
        rows, *others = (
            tpprof.forward(truth.model, inputs, spec, attention=policy, solved=solved[policy])
            for policy in POLICIES
        )
        for other in others:
            assert other.visual_per_layer == rows.visual_per_layer, f"request {seed}"
            assert all(torch.equal(a, b) for a, b in zip(rows.kept, other.kept, strict=True))
