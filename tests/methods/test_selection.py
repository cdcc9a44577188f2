"""Which tokens a method must keep, computed again from transformers' own eager attention.

`Truth` holds the unpruned model as transformers runs it. `walk` runs the decoder layers by hand
over a sequence that shrinks: plain tensors, eager maps, an explicit causal mask. The rules are
written from the papers' algorithms, apart from the package, and compared with `Trace.kept`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision

import tpprof
from tpprof import methods
from tpprof.methods.core.decoder import Inputs
from tpprof.methods.core.engine import Trace
from tpprof.methods.core.ledger import Policy
from tpprof.profiler.models.model import Model

CASES = [("llava", "flat"), ("llava-next", "flat"), ("llava-next", "anyres"), ("qwen2-vl", "flat")]
pytestmark = pytest.mark.parametrize(
    ("model", "layout"), CASES, indirect=["model"], ids=lambda value: str(value)
)
LAYER = 2  # where the single-stage methods prune: by the attention of layer 1
STAGES_BY_VERSION = {"1.0": (1, 2, 4, 5), "1.5": (1, 2, 4)}  # 2, 6, 15, 19 of 32 layers, of 8
MUSTDROP_STAGES = (1, 2, 3, 4)  # 2, 6, 10, 14 of 32 layers, of 8


@contextlib.contextmanager
def eager(model: Model) -> Iterator[None]:
    """transformers' own eager attention, and no gradients."""
    model.module.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            yield
    finally:
        model.module.set_attn_implementation(model.backend)


@contextlib.contextmanager
def maps_of(module: Any) -> Iterator[list[Tensor]]:
    """The attention map [B, queries, keys] of each call of `module`, mean over heads."""
    found: list[Tensor] = []
    hook = module.register_forward_hook(lambda _module, _args, out: found.append(out[1].mean(1)))
    try:
        yield found
    finally:
        hook.remove()


@dataclass
class Truth:
    """One request through the unpruned model: maps [S, S] and hidden states [S, d] by layer.

    hidden[l] enters layer l. logits: [vocabulary], of the last token.
    """

    model: Model
    inputs: Inputs
    start: int
    stop: int
    maps: list[Tensor]
    hidden: list[Tensor]
    logits: Tensor

    @property
    def visual(self) -> int:
        return self.stop - self.start

    @property
    def embeddings(self) -> Tensor:
        return self.hidden[0]

    def row(self, index: int) -> Tensor:
        """What query `index` gives the visual tokens in the layer before LAYER."""
        return self.maps[LAYER - 1][index, self.start : self.stop]


_known: dict[tuple[str, str], Truth] = {}


@pytest.fixture
def truth(model: Model, layout: str) -> Truth:
    key = (model.name, layout)
    if key not in _known:
        _known[key] = observe(model, tpprof.inputs(model, size=(168, 168), layout=layout))
    return _known[key]


def observe(model: Model, inputs: Inputs) -> Truth:
    visual = (inputs["input_ids"][0] == model.image_token).nonzero()[:, 0]
    start, stop = int(visual[0]), int(visual[-1]) + 1
    wanted = {"output_attentions": True, "output_hidden_states": True, "use_cache": False}
    with eager(model):
        if model.shape.architecture == "llava-next" and inputs.order is None:  # layout "flat"
            embedded = model.module.get_input_embeddings()(inputs["input_ids"])
            embedded[0, start:stop] = project(model, clip(model, inputs).hidden_states[-2][:, 1:])
            out = model.module.model.language_model(inputs_embeds=embedded, **wanted)
        else:
            out = model.module.model(**inputs, **wanted)
        logits = model.module.lm_head(out.last_hidden_state)[0, -1]
    maps = [attention[0].mean(0) for attention in out.attentions]
    return Truth(model, inputs, start, stop, maps, [h[0] for h in out.hidden_states], logits)


def clip(model: Model, inputs: Inputs) -> Any:
    """The CLIP tower's output; its hidden_states[l + 1] leave layer l, class token first."""
    pixels = inputs["pixel_values"]
    pixels = pixels.flatten(0, 1) if pixels.dim() == 5 else pixels
    return model.module.model.vision_tower(
        pixels, output_hidden_states=True, output_attentions=True
    )


def project(model: Model, patches: Tensor) -> Tensor:
    """Patches [tiles, n, width] as decoder inputs [tiles * n, d]."""
    projected: Tensor = model.module.model.multi_modal_projector(patches)
    return projected.flatten(0, 1)


@dataclass
class Choice:
    """What goes on after a layer: places among its visual tokens, and the states they take."""

    index: Tensor
    states: Tensor
    merged: int = 0


Decide = Callable[[Tensor, Tensor], Choice]
"""From text-and-image attention [after, n] and visual states [n, d] of a layer to a choice."""


@dataclass
class Walk:
    """The same as a Trace says, by hand: per layer kept, and the sequence [S, d] that enters."""

    kept: list[Tensor] = field(default_factory=list)
    hidden: list[Tensor] = field(default_factory=list)
    positions: list[Tensor] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    step_logits: Tensor = field(default_factory=lambda: torch.empty(0))


def walk(
    truth: Truth,
    stages: dict[int, Decide],
    *,
    compact: bool,
    compressed: bool = False,
    embeddings: Tensor | None = None,
    kept: Tensor | None = None,
) -> Walk:
    """Prefill and one decode step, `stages` deciding on leaving their layer.

    compact: positions count the current sequence, and decode goes on behind each layer's cache;
    M-RoPE always keeps its own. compressed: caches from the first to the last stage hold the
    survivors only.
    """
    model, cache, done = truth.model, DynamicCache(), Walk()
    hidden = (truth.embeddings if embeddings is None else embeddings)[None]
    after = truth.embeddings.shape[0] - truth.stop
    kept = torch.arange(truth.visual) if kept is None else kept
    rope = truth.inputs.positions[..., : hidden.shape[1]]
    compact = compact and rope.dim() == 2
    survivors: dict[int, Tensor] = {}
    with eager(model):
        for number, layer in enumerate(model.module.model.language_model.layers):
            done.kept.append(kept)
            done.hidden.append(hidden[0])
            cos, sin = model.module.model.language_model.rotary_emb(hidden, rope)
            done.positions.append(cos[0])
            mask = torch.full((hidden.shape[1],) * 2, -math.inf).triu(1)[None, None]
            with maps_of(layer.self_attn) as found:
                hidden = layer(
                    hidden,
                    attention_mask=mask,
                    past_key_values=cache,
                    position_embeddings=(cos, sin),
                )
            if number not in stages:
                continue
            start, stop = truth.start, hidden.shape[1] - after
            choice = stages[number](found[0][0, stop:, start:stop], hidden[0, start:stop])
            hidden = torch.cat([hidden[:, :start], choice.states[None], hidden[:, stop:]], 1)
            kept = kept[choice.index].clone()
            kept[len(kept) - choice.merged :] = -1
            place = [torch.arange(start), start + choice.index, torch.arange(stop, stop + after)]
            rope = rope[..., : hidden.shape[1]] if compact else rope[..., torch.cat(place)]
            survivors = {old: index[choice.index] for old, index in survivors.items()}
            survivors[number] = choice.index
        if compressed:
            for number in range(min(stages), max(stages) + 1):
                _compress(cache.layers[number], truth.start, after, survivors[number])
        done.logits = _head(model, hidden)
        done.lengths = [layer.keys.shape[2] for layer in cache.layers]
        done.step_logits = _decode(truth, cache, done.logits.argmax()[None, None], compact)
    return done


def _compress(layer: Any, start: int, after: int, chosen: Tensor) -> None:
    stop = layer.keys.shape[2] - after
    place = torch.cat([torch.arange(start), start + chosen, torch.arange(stop, stop + after)])
    layer.keys, layer.values = layer.keys[:, :, place], layer.values[:, :, place]


def _decode(truth: Truth, cache: Any, token: Tensor, compact: bool) -> Tensor:
    language = truth.model.module.model.language_model
    hidden = language.embed_tokens(token)
    for number, layer in enumerate(language.layers):
        here = cache.layers[number].keys.shape[2]
        position = torch.tensor([[here if compact else int(truth.inputs.positions.max()) + 1]])
        if truth.inputs.positions.dim() == 3:
            position = position.expand(3, 1, 1)
        rope = language.rotary_emb(hidden, position)
        hidden = layer(hidden, past_key_values=cache, position_embeddings=rope)
    return _head(truth.model, hidden)


def _head(model: Model, hidden: Tensor) -> Tensor:
    logits: Tensor = model.module.lm_head(model.module.model.language_model.norm(hidden))[0, -1]
    return logits


@dataclass
class Run:
    """A trace, with what entered each decoder layer of its prefill."""

    trace: Trace
    hidden: list[Tensor]
    positions: list[Tensor]


def run(truth: Truth, spec: str, policy: Policy = "rows") -> Run:
    hidden: list[Tensor] = []
    positions: list[Tensor] = []

    def seen(_module: Any, args: Any, kwargs: Any) -> None:
        states = args[0] if args else kwargs["hidden_states"]
        hidden.append(states[0])
        positions.append(kwargs["position_embeddings"][0][0])

    layers = truth.model.module.model.language_model.layers
    hooks = [layer.register_forward_pre_hook(seen, with_kwargs=True) for layer in layers]
    try:
        trace = tpprof.forward(truth.model, truth.inputs, spec, attention=policy)
    finally:
        for hook in hooks:
            hook.remove()
    return Run(trace, hidden[: len(layers)], positions[: len(layers)])


def best(scores: Tensor, count: int) -> Tensor:
    return scores.topk(count).indices.sort().values


def fastv_alpha(truth: Truth, count: int, alpha: float) -> Tensor:
    def stretched(values: Tensor) -> Tensor:
        return (values - values.min()) / (values.max() - values.min())

    entering = truth.hidden[LAYER]
    visual = entering[truth.start : truth.stop]
    alike = torch.nn.functional.cosine_similarity(visual, entering[-1:], dim=-1)
    attention, likeness = stretched(truth.row(-1)), stretched(alike)
    return best(alpha * attention + (1 - alpha) * (1 - likeness), count)


def dagger(truth: Truth, keep: Fraction, reading: str) -> Tensor:
    merger = 4 if truth.model.shape.architecture == "qwen2-vl" else 1
    share = 1 - (1 - keep) / merger if reading == "literal" else min(Fraction(1), merger * keep)
    return best(truth.row(-1), round(truth.visual * share))


SINGLE: dict[str, Callable[[Truth], Tensor]] = {
    "fastv:keep=5": lambda truth: best(truth.row(-1), 5),
    "fastv:keep=1/3": lambda truth: best(truth.row(-1), truth.visual // 3),
    "fastv-reverse:keep=1/3": lambda truth: best(-truth.row(-1), truth.visual // 3),
    "fastv-vis:keep=1/3": lambda truth: best(truth.row(truth.stop - 1), truth.visual // 3),
    "fastv-alpha:keep=7,alpha=0.5": lambda truth: fastv_alpha(truth, 7, 0.5),
    "fastv-alpha:keep=7,alpha=0.2": lambda truth: fastv_alpha(truth, 7, 0.2),
    "fastv-alpha:keep=7,alpha=0": lambda truth: fastv_alpha(truth, 7, 0),
    "fastv-alpha:keep=7,alpha=1": lambda truth: best(truth.row(-1), 7),
    "fastv-dagger:keep=1/3": lambda truth: dagger(truth, Fraction(1, 3), "literal"),
    "fastv-dagger:keep=1/9": lambda truth: dagger(truth, Fraction(1, 9), "literal"),
    "fastv-dagger:keep=1/3,reading=patches": lambda t: dagger(t, Fraction(1, 3), "patches"),
    "fastv-dagger:keep=1/9,reading=patches": lambda t: dagger(t, Fraction(1, 9), "patches"),
}


def check(trace: Trace, expected: list[Tensor]) -> None:
    for number, (kept, wanted) in enumerate(zip(trace.kept, expected, strict=True)):
        assert kept[0].tolist() == wanted.tolist(), f"layer {number}"
    assert trace.visual_per_layer == [len(wanted) for wanted in expected]


def alike(run: Run, walked: Walk) -> None:
    """The same sequence enters every layer, at the same positions, and decode gives the same."""
    check(run.trace, walked.kept)
    for wanted, states, turned, cos in zip(
        walked.hidden, run.hidden, walked.positions, run.positions, strict=True
    ):
        torch.testing.assert_close(states, wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(cos, turned)
    torch.testing.assert_close(run.trace.logits[0], walked.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(run.trace.step_logits[0, 0], walked.step_logits, rtol=1e-4, atol=1e-5)
    per_token = run.trace.kv_bytes.prefill[0] // walked.lengths[0]
    assert run.trace.kv_bytes.prefill == [per_token * length for length in walked.lengths]


def test_walk_is_the_model_when_nothing_is_pruned(truth: Truth) -> None:
    walked = walk(truth, {}, compact=True)
    torch.testing.assert_close(walked.logits, truth.logits, rtol=1e-4, atol=1e-5)
    alike(run(truth, "vanilla"), walked)


@pytest.mark.parametrize("spec", SINGLE)
def test_fastv_family(truth: Truth, spec: str) -> None:
    chosen, everything = SINGLE[spec](truth), torch.arange(truth.visual)
    spec += f",layer={LAYER}"
    found = run(truth, spec)
    check(found.trace, [everything] * LAYER + [chosen] * (8 - LAYER))
    alike(found, walk(truth, {LAYER - 1: lambda _, x: Choice(chosen, x[chosen])}, compact=False))


def windows(truth: Truth, height: int, width: int) -> list[Tensor]:
    """The visual tokens of every window, tile by tile, rows first; smaller at ragged edges."""
    found, base = [], 0
    for segment in truth.inputs.request.segments:
        grid = base + torch.arange(segment.tokens).view(segment.height, segment.width)
        base += segment.tokens
        for rows in grid.split(height):
            found += [window.flatten() for window in rows.split(width, 1)]
    return found


@pytest.mark.parametrize(("side", "per_window"), [(2, 1), (3, 1), (3, 2)])
def test_fastv_window_with_an_even_budget(truth: Truth, side: int, per_window: int) -> None:
    score, found = truth.row(-1), windows(truth, side, side)
    chosen = torch.cat([w[best(score[w], min(per_window, len(w)))] for w in found]).sort().values
    spec = f"fastv-window:height={side},width={side},keep={per_window * len(found)},layer={LAYER}"
    if per_window > 1 and any(len(w) < side * side for w in found):
        pytest.skip("ragged windows take less than their equal share")
    check(run(truth, spec).trace, [torch.arange(truth.visual)] * 2 + [chosen] * 6)


@pytest.mark.parametrize(("height", "width", "share"), [(3, 3, 0.27), (2, 3, 0.4), (4, 2, 0.13)])
def test_fastv_window_with_an_uneven_budget(
    truth: Truth, height: int, width: int, share: float
) -> None:
    """Every window keeps its share rounded down or up, up where the remainder is largest."""
    score, found, keep = truth.row(-1), windows(truth, height, width), int(truth.visual * share)
    spec = f"fastv-window:height={height},width={width},keep={keep},layer={LAYER}"
    kept = run(truth, spec).trace.kept[LAYER][0]
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert len(kept) == keep
    remainders: dict[int, list[float]] = {0: [], 1: []}
    for window in found:
        inside = window[torch.isin(window, kept)]
        assert inside.tolist() == window[best(score[window], len(inside))].tolist()
        quota = Fraction(keep * len(window), truth.visual)
        remainders[len(inside) - math.floor(quota)].append(quota - math.floor(quota))
    assert min(remainders[1], default=1) >= max(remainders[0], default=0)


def test_random(truth: Truth) -> None:
    def drawn(seed: int) -> list[int]:
        kept = run(truth, f"random:keep=1/3,layer={LAYER},seed={seed}").trace.kept
        assert all(len(kept[layer][0]) == truth.visual for layer in range(LAYER))
        assert all(torch.equal(kept[layer], kept[LAYER]) for layer in range(LAYER, 8))
        return [int(index) for index in kept[LAYER][0]]

    draws = [drawn(seed) for seed in range(6)]
    for draw in draws:
        assert draw == sorted(set(draw))
        assert len(draw) == truth.visual // 3
        assert set(draw) <= set(range(truth.visual))
    assert drawn(0) == draws[0]
    assert len({tuple(draw) for draw in draws}) == 6
    assert len(set().union(*draws)) > 0.75 * truth.visual  # 1 - (2/3)^6 = 91 % expected


@pytest.mark.parametrize("feature", ["mean", "argmax-l1"])
@pytest.mark.parametrize("side", [2, 3])
def test_pooling(truth: Truth, side: int, feature: str) -> None:
    """Means stand in the order of their windows, tokens of largest L1 norm in their own."""
    visual = truth.hidden[LAYER][truth.start : truth.stop]
    found = windows(truth, side, side)
    places = torch.stack([window[visual[window].abs().sum(1).argmax()] for window in found])
    if feature == "mean":
        means = torch.stack([visual[window].mean(0) for window in found])
        choice = Choice(places, means, len(places))
    else:
        places = places.sort().values
        choice = Choice(places, visual[places])
    spec = f"pooling:window={side},feature={feature},keep=1/2,layer={LAYER}"
    alike(run(truth, spec), walk(truth, {LAYER - 1: lambda *_: choice}, compact=False))


def raters(truth: Truth) -> Tensor:
    """Flags of the tokens after the image that the image resembles more than average."""
    visual, text = truth.embeddings[truth.start : truth.stop], truth.embeddings[truth.stop :]
    relevance = (visual @ text.T).softmax(1).mean(0)
    return relevance > relevance.mean()


def clusters(states: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Density peaks: the centres' places, best first, and every token's nearest centre.

    Two tokens that are each other's nearest tie, so the method adds up to 1e-6 by a fixed draw.
    """
    draw = torch.rand(len(states), generator=torch.Generator().manual_seed(0))
    distance = (states[:, None] - states[None]).norm(dim=2) / math.sqrt(states.shape[1])
    density = (-distance.sort(1).values[:, :count].square().mean(1)).exp() + 1e-6 * draw
    denser = density[None] > density[:, None]
    separation = torch.where(denser, distance, math.inf).min(1).values
    separation[separation.isinf()] = distance.max()
    centres = (density * separation).topk(count).indices
    return centres, distance[:, centres].argmin(1)


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
        centres, nearest = clusters(states[again], merged)
        means = [states[again[nearest == cluster]].mean(0) for cluster in range(merged)]
        places = torch.cat([index, again[centres]])
        return Choice(places, torch.cat([states[index], torch.stack(means)]), merged)

    return decide


@pytest.mark.parametrize("recycle", [True, False])
@pytest.mark.parametrize("version", ["1.0", "1.5"])
@pytest.mark.parametrize("keep", ["1/2", "1/3"])
def test_sparsevlm(truth: Truth, version: str, keep: str, recycle: bool) -> None:
    """Counts are the plan's; which tokens fill them, and what the merged ones are, is ours."""
    spec = f"sparsevlm:keep={keep},version={version},recycle={str(recycle).lower()}"
    plan = methods.parse(spec).plan(truth.inputs.request)
    planned = {stage.layer: stage.visual for stage in plan.stages if stage.moment == "leaving"}
    assert tuple(planned) == STAGES_BY_VERSION[version]
    stages: dict[int, Decide] = {}
    entering = truth.visual
    for layer, leaving in planned.items():
        assert leaving is not None
        kept = max(
            kept
            for kept in range(1, entering + (not recycle))
            if kept + recycle * recycled(entering - kept)[1] == leaving
        )
        stages[layer] = sparsevlm(truth, lambda _, kept=kept: kept, recycle)
        entering = leaving
    alike(run(truth, spec), walk(truth, stages, compact=True))


@pytest.mark.parametrize(("scale", "bias"), [(1.0, 0.0), (1.7, 2.0), (0.4, 1.0)])
def test_sparsevlm_by_rank(truth: Truth, scale: float, bias: float) -> None:
    def count(rated: Tensor) -> int:
        rank, visual = int(torch.linalg.matrix_rank(rated)), rated.shape[1]
        return visual if rank == visual else min(int(rank * scale + bias), visual - 1)

    spec = f"sparsevlm:adaptive=true,scale={scale},bias={bias},keep=1/2"
    stages = {layer: sparsevlm(truth, count) for layer in STAGES_BY_VERSION["1.0"]}
    alike(run(truth, spec), walk(truth, stages, compact=True))


def projected(truth: Truth) -> Tensor:
    """Every projected patch [tiles * n, d], as HF lays them out before any packing."""
    with eager(truth.model):
        return project(truth.model, clip(truth.model, truth.inputs).hidden_states[-2][:, 1:])


def class_keys(rows: Tensor) -> Tensor:
    """Flags [tiles, n]: the 8 % of each tile with the largest of `rows`, its class token's."""
    count = math.ceil(0.08 * rows.shape[1])
    return torch.zeros_like(rows, dtype=torch.bool).scatter(1, rows.topk(count).indices, True)


def keys(truth: Truth) -> Tensor:
    """Flags of the visual tokens that the vision tower's last layer declares key."""
    if truth.model.shape.architecture == "qwen2-vl":
        return qwen_keys(truth)
    with eager(truth.model):
        last = clip(truth.model, truth.inputs).attentions[-1].mean(1)
    flags = class_keys(last[:, 0, 1:]).flatten()
    if truth.inputs.order is None:
        return flags
    newline = truth.model.module.model.image_newline[None]
    places = torch.cdist(  # where each visual token of the packed layout came from
        truth.embeddings[truth.start : truth.stop], torch.cat([projected(truth), newline])
    ).argmin(1)
    return torch.cat([flags, torch.tensor([False])])[places]


def qwen_keys(truth: Truth) -> Tensor:
    """Without a class token: attention that all patches give, summed over each merged token."""
    visual, seen = truth.model.module.model.visual, []

    def attend(module: Any, args: Any, kwargs: Any) -> None:
        states = kwargs.get("hidden_states", args[0] if args else None)
        query, key, _ = module.qkv(states).view(len(states), 3, module.num_heads, -1).unbind(1)
        query, key = apply_rotary_pos_emb_vision(query, key, *kwargs["position_embeddings"])
        scores = torch.einsum("qhd,khd->hqk", query, key) * query.shape[-1] ** -0.5
        seen.append(scores.softmax(-1).mean((0, 1)))

    hook = visual.blocks[-1].attn.register_forward_pre_hook(attend, with_kwargs=True)
    with eager(truth.model):
        visual(truth.inputs["pixel_values"], grid_thw=truth.inputs["image_grid_thw"])
    hook.remove()
    per_token = seen[0].view(-1, truth.inputs.request.merger).sum(1)
    return class_keys(per_token[None])[0]


class MustDrop:
    """The data-dependent rule of the decoder; remembers where the keys have gone."""

    def __init__(self, key: Tensor, share: float, largest: float) -> None:
        self.key, self.share, self.largest = key, share, largest
        self.saved_by_key = self.saved_by_largest = 0

    def __call__(self, attention: Tensor, states: Tensor) -> Choice:
        given = attention.sum(0)
        little = given < self.share * given.sum()
        drop = little & (attention.max(0).values < self.largest)
        self.saved_by_key += int((drop & self.key).sum())
        self.saved_by_largest += int((little & ~drop).sum())
        index = (~drop | self.key).nonzero()[:, 0]
        self.key = self.key[index]
        return Choice(index, states[index])


def test_mustdrop_by_thresholds(truth: Truth) -> None:
    attention = truth.maps[1][truth.stop :, truth.start : truth.stop]
    share, largest = 1.1 / truth.visual, float(attention.max(0).values.median()) * 1.05
    rule = MustDrop(keys(truth), share, largest)
    first = rule(attention, truth.hidden[2][truth.start : truth.stop]).index
    assert len(keys(truth).nonzero()) < len(first) < truth.visual
    assert rule.saved_by_key
    assert rule.saved_by_largest
    spec = f"mustdrop:merge=0,global_threshold={share},individual_threshold={largest}"
    found = run(truth, spec)
    assert found.trace.kept[2][0].tolist() == first.tolist()
    rule = MustDrop(keys(truth), share, largest)
    walked = walk(truth, dict.fromkeys(MUSTDROP_STAGES, rule), compact=True, compressed=True)
    assert len(walked.kept[5]) < len(first)
    alike(found, walked)


def test_mustdrop_never_drops_a_key(truth: Truth) -> None:
    found = run(truth, "mustdrop:merge=0,global_threshold=1.01,individual_threshold=1.01").trace
    for layer in range(2, 8):
        assert found.kept[layer][0].tolist() == keys(truth).nonzero()[:, 0].tolist()


def test_mustdrop_shrinks_the_caches_between_its_stages(truth: Truth) -> None:
    share = 1.1 / truth.visual
    spec = f"mustdrop:merge=0,global_threshold={share},individual_threshold=1"
    trace, text = run(truth, spec).trace, truth.embeddings.shape[0] - truth.visual
    whole, final = text + truth.visual, text + trace.kept[-1].shape[1]
    assert trace.visual_per_layer[1] > trace.visual_per_layer[2] > trace.visual_per_layer[-1]
    per_token = trace.kv_bytes.prefill[0] // whole
    assert trace.kv_bytes.prefill == [per_token * whole] + [per_token * final] * 7


def merged_windows(truth: Truth, count: int | float) -> tuple[Tensor, Tensor, Tensor]:
    """Patches after the tower's first layer with their most alike 3x3 windows merged.

    count: windows a tile, or the similarity from which on windows merge. Returns states
    [tiles, 1 + m, width] with the class tokens, places [tiles, m] (-1 merged) and similarities.
    """
    with eager(truth.model):
        leaving = clip(truth.model, truth.inputs).hidden_states[1]
    side = math.isqrt(leaving.shape[1] - 1)
    grid = torch.arange(side * side).view(side, side)
    found = torch.stack([w.flatten() for rows in grid.split(3) for w in rows.split(3, 1)])
    inside = leaving[:, 1:][:, found]  # [tiles, windows, 9, width]
    unit = inside / inside.norm(dim=-1, keepdim=True)
    cosines = unit @ unit.transpose(-1, -2)
    likeness = (cosines.sum((-1, -2)) - cosines.diagonal(dim1=-2, dim2=-1).sum(-1)) / 72
    merged = count if isinstance(count, int) else int((likeness >= count).sum(1).min())
    states, places = [], []
    for tile, order in enumerate(likeness.argsort(1, descending=True)[:, :merged]):
        rest = torch.tensor([p for p in range(side * side) if p not in found[order]])
        parts = [leaving[tile, :1], inside[tile, order].mean(1), leaving[tile, 1 + rest]]
        states.append(torch.cat(parts))
        places.append(torch.cat([torch.full((merged,), -1), rest]))
    return torch.stack(states), torch.stack(places), likeness


def through_tower(truth: Truth, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Visual tokens [n, d] and key flags [n], from states that leave the tower's first layer."""
    layers = truth.model.module.model.vision_tower.encoder.layers
    with eager(truth.model), maps_of(layers[-1].self_attn) as found:
        for layer in layers[1:-1]:
            hidden = layer(hidden, attention_mask=None)
        layers[-1](hidden, attention_mask=None)
        tokens = project(truth.model, hidden[:, 1:])
    return tokens, class_keys(found[0][:, 0, 1:]).flatten()


@pytest.mark.parametrize("knob", ["merge", "similarity"])
def test_mustdrop_merges_windows(truth: Truth, knob: str) -> None:
    if truth.model.shape.architecture == "qwen2-vl" or truth.inputs.order is not None:
        pytest.skip("the layout needs its grid: nothing is merged")
    windows_per_tile = truth.inputs.request.segments[0].tokens // 9
    amount: int | float = windows_per_tile // 2
    value = 0.5
    if knob == "similarity":  # between the third and the fourth window of the least alike tile
        ranked = merged_windows(truth, 1)[2].sort(1, descending=True).values
        tile = ranked[:, 2].argmin()
        amount = value = float(ranked[tile, 2:4].mean())
    states, places, _ = merged_windows(truth, amount)
    tokens, key = through_tower(truth, states)
    base = 9 * windows_per_tile * torch.arange(len(places))[:, None]
    kept = torch.where(places < 0, places, places + base).flatten()
    assert (kept < 0).any()
    assert len(tokens) < truth.visual
    parts = [truth.embeddings[: truth.start], tokens, truth.embeddings[truth.stop :]]
    share, largest = 1.1 / len(tokens), 0.1
    spec = f"mustdrop:{knob}={value},global_threshold={share},individual_threshold={largest}"
    stages = dict.fromkeys(MUSTDROP_STAGES, MustDrop(key, share, largest))
    walked = walk(
        truth, stages, compact=True, compressed=True, embeddings=torch.cat(parts), kept=kept
    )
    assert len(walked.kept[-1]) < len(tokens)
    alike(run(truth, spec), walked)


POLICIES_BY_SPEC = [
    *(name for name in methods.names() if name != "vanilla"),
    "sparsevlm:version=1.5",
    "sparsevlm:adaptive=true",
]


@pytest.mark.parametrize("spec", ["vanilla", *(f"{spec}" for spec in POLICIES_BY_SPEC)])
def test_policies_select_the_same_tokens(truth: Truth, spec: str) -> None:
    chosen = methods.with_keep(methods.parse(spec), "1/2")
    rows, maps, published = (
        tpprof.forward(truth.model, truth.inputs, chosen, attention=policy)
        for policy in ("rows", "maps", "published")
    )
    for other in (maps, published):
        assert len(other.kept) == len(rows.kept) == 8
        assert all(torch.equal(a, b) for a, b in zip(rows.kept, other.kept, strict=True))
        torch.testing.assert_close(other.logits, rows.logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(other.step_logits, rows.step_logits, rtol=1e-4, atol=1e-5)
