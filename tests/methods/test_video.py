"""Methods for videos: what must stay, worked out again from what transformers' own model gives."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import pytest
import torch
from fake_capture import Captures
from micro_models import PRUNING, SHAPES, SIZE, VIDEO, affordable, load
from torch import Tensor
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision
from transformers.vision_utils import get_vision_window_index

import tpprof
from tpprof.methods import BudgetError, UnsupportedError, View, parse
from tpprof.methods.engine.decoder import Inputs
from tpprof.methods.engine.ledger import planned
from tpprof.methods.engine.run import run
from tpprof.methods.engine.runtimes.graph import GraphRuntime
from tpprof.profiler.models.geometry import request
from tpprof.profiler.models.model import Model
from tpprof.tests.methods.reference import ATTENTION, blocks_of, eager, entering_states

FRAMES = {"qwen2-vl": 10, "qwen2.5-vl": 10, "qwen3-vl": 10, "llava-onevision": 5, "internvl": 5}
"""Of a video that becomes five: Qwen's models join two in time."""
COUNT = 5
on_each = pytest.mark.parametrize("name", FRAMES)


def shown(name: str, **more: Any) -> tuple[Model, Inputs]:
    model = load(name)
    options = {"image_size": (112, 140), "frames": FRAMES[name], "text_tokens": (5, 4)}
    return model, tpprof.inputs(model, **{**options, **more})


@functools.cache
def entering(name: str) -> Tensor:
    """The visual tokens [V, d] that enter the decoder of transformers' own model."""
    model, inputs = shown(name)
    with eager(model), entering_states(model) as found:
        model.module(**inputs)
    states: Tensor = found[0][(inputs["input_ids"] == model.video_token)[0]]
    return states


@functools.cache
def attention(name: str) -> Tensor:
    """What the tower's last layer attends to, by visual token of each frame [F, T]: the class
    token's weights or, without one, the mean over all patches; mean over heads."""
    model, inputs = shown(name)
    core, seen = model.module.model, {}
    block = blocks_of(model)[inputs.request.tower.feature_layer]
    attend = getattr(block, ATTENTION.get(name, "attn" if "qwen" in name else "self_attn"))

    def before(_module: Any, args: Any, kwargs: Any) -> None:
        states = args[0] if args else kwargs["hidden_states"]
        if "qwen" not in name:
            seen["q"], seen["k"] = attend.q_proj(states), attend.k_proj(states)
            return
        query, key, _ = attend.qkv(states).view(len(states), 3, attend.num_heads, -1).unbind(1)
        turned = apply_rotary_pos_emb_vision(query, key, *kwargs["position_embeddings"])
        if name == "qwen2.5-vl":  # whose tower has its patches by windows
            turned = tuple(part.unflatten(0, (-1, 4))[by_frame()].flatten(0, 1) for part in turned)
        seen["q"], seen["k"] = (part.flatten(1).unflatten(0, (COUNT, -1)) for part in turned)

    def by_frame() -> Tensor:
        tower = core.visual
        given = tower.spatial_merge_size, tower.window_size, tower.patch_size
        units, _ = get_vision_window_index(inputs["video_grid_thw"], *given)
        assert len(core.visual.blocks) - 1 in core.visual.fullatt_block_indexes
        order: Tensor = units.argsort()
        return order

    hook = attend.register_forward_pre_hook(before, with_kwargs=True)
    with eager(model):
        model.module(**inputs)
        hook.remove()
        query, key = (seen[n].unflatten(-1, (attend.num_heads, -1)).transpose(1, 2) for n in "qk")
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        weights = scores.softmax(-1).mean(1)
        if name == "internvl":
            grid = weights[:, 0, 1:].reshape(COUNT, *(round(scores.shape[-1] ** 0.5),) * 2, 1)
            joined: Tensor = core.pixel_shuffle(grid, scale_factor=0.5).flatten(1, 2).mean(-1)
            return joined
        by_patch = weights.mean(1)
        if name == "llava-onevision":
            pooled: Tensor = core.apply_pooling(by_patch[..., None])[..., 0]
            return pooled
        return by_patch.unflatten(1, (-1, 4)).mean(-1)


def frames_of(values: Tensor) -> Tensor:
    """Values [V, ...] as those of the frames [F, T, ...], without the newline behind them."""
    return values[: len(values) // COUNT * COUNT].unflatten(0, (COUNT, -1))


def kept(name: str, spec: str, **more: Any) -> list[int]:
    model, inputs = shown(name, **more)
    places: list[int] = tpprof.forward(model, inputs, spec).kept[-1][0].tolist()
    return places


@on_each
def test_evs_keeps_what_changes(name: str) -> None:
    frames = frames_of(entering(name))
    size, visual = frames.shape[1], len(entering(name))
    newlines = list(range(COUNT * size, visual))
    pairs = itertools.pairwise(frames)
    changes = torch.cat([1 - torch.cosine_similarity(new, old, dim=-1) for old, new in pairs])
    for more in (0, 1, size, 2 * size + 3):
        best = sorted(changes.topk(more).indices.add(size).tolist())
        count = size + more + len(newlines)
        assert kept(name, f"evs:keep={count}") == [*range(size), *best, *newlines]


@pytest.mark.parametrize("name", ["llava-onevision", "qwen2.5-vl"])
def test_evs_on_a_still_keeps_the_earliest(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a stable sort does in vLLM."""
    monkeypatch.setattr("tpprof.methods.evs.unit", torch.ones_like)
    size = frames_of(entering(name)).shape[1]
    more = len(entering(name)) % COUNT
    places = kept(name, f"evs:keep={size + 7 + more}")
    assert places[: size + 7] == list(range(size + 7))


@pytest.mark.parametrize("name", ["qwen2.5-vl", "llava-onevision"])
def test_evs_needs_its_first_frame(name: str) -> None:
    """The line names the budget with which vLLM would leave the first frame alone, and that works:
    of a frame, and a newline behind the video where there is one."""
    _, inputs = shown(name)
    first, newlines = inputs.request.segments[0].tokens, inputs.request.visual % COUNT
    least = first + newlines
    told = (
        f"keep={least - 1} means {first - 1} visual tokens .* fewer than the {first} of the first"
    )
    with pytest.raises(
        BudgetError, match=rf"{told} .*alone: keep={least} here\): ask for at least"
    ):
        parse(f"evs:keep={least - 1}").plan(inputs.request)
    assert kept(name, f"evs:keep={least}") == [
        *range(first),
        *range(inputs.request.visual - newlines, inputs.request.visual),
    ]


def test_evs_cannot_prune_a_single_frame() -> None:
    _, one = shown("internvl", frames=1)
    with pytest.raises(BudgetError, match=f"keep={one.request.visual} here"):
        parse("evs:keep=1/2").plan(one.request)


def test_evs_has_the_positions_of_vllm() -> None:
    """On Qwen2.5-VL in time, row and column, from the start of the video on."""
    model, inputs = shown("qwen2.5-vl")
    places = torch.tensor(kept("qwen2.5-vl", "evs:keep=1/2"))
    rows, columns = inputs.request.segments[0].height, inputs.request.segments[0].width
    seconds = float(inputs["second_per_grid_ts"][0])
    rate = model.module.config.vision_config.tokens_per_second * seconds
    times, inside = places // (rows * columns), places % (rows * columns)
    wanted = torch.stack([(times * rate).long(), inside // columns, inside % columns])
    found = positions_of(model, inputs, "evs:keep=1/2")
    before, after = inputs.request.before, inputs.request.after
    assert torch.equal(found[:, before:-after], wanted + before)
    assert torch.equal(found[:, -after:], inputs.positions[:, 0, -after:])


def positions_of(model: Model, inputs: Inputs, spec: str) -> Tensor:
    """The positions [3, S] behind pruning, read off the rotary tables of the first layer."""
    seen: dict[str, Tensor] = {}

    def enter(_module: Any, _args: Any, kwargs: Any) -> None:
        seen.setdefault("cos", kwargs["position_embeddings"][0][0])

    hook = model.layers[0].register_forward_pre_hook(enter, with_kwargs=True)
    tpprof.forward(model, inputs, spec)
    hook.remove()
    whole, _ = model.rotary(torch.zeros(1, 1, 1), inputs.positions)
    known = {tuple(table.tolist()): n for n, table in enumerate(whole[0])}
    places = [known[tuple(table.tolist())] for table in seen["cos"]]
    return inputs.positions[:, 0, places]


def test_positions_of_frames_with_times_between_them_stay() -> None:
    model, inputs = shown("qwen3-vl")
    places = kept("qwen3-vl", "evs:keep=1/2")
    visual = (inputs["input_ids"] == model.video_token)[0]
    stays = ~visual
    stays[visual.nonzero()[places, 0]] = True
    found = positions_of(model, inputs, "evs:keep=1/2")
    assert torch.equal(found, inputs.positions[:, 0, stays])


def kernels(tokens: Tensor, mean: Tensor) -> Tensor:
    squared = torch.cdist(tokens, mean[None])[:, 0].double() ** 2
    return torch.stack([torch.exp(-squared / 2 / 2.0**power) for power in range(-3, 2)]).sum(0)


@on_each
@pytest.mark.parametrize("share", [0.2, 0.45, 0.8])
def test_vidcom2_keeps_what_is_unlike(name: str, share: float) -> None:
    """Frame by frame; shares above a whole frame go to the best of the others."""
    tokens = frames_of(entering(name)).double()
    size, newlines = tokens.shape[1], len(entering(name)) % COUNT
    left = round(share * COUNT * size)
    steady = tokens.flatten(0, 1).var(0, unbiased=False).argsort()[: tokens.shape[-1] // 2]
    tokens = torch.nn.functional.normalize(tokens[..., steady], dim=-1)
    video = torch.stack([kernels(frame, tokens.mean((0, 1))) for frame in tokens])
    own = torch.stack([kernels(frame, frame.mean(0)) for frame in tokens])
    shares = torch.softmax(-video.mean(1) / 0.01, 0)
    shares = left / COUNT * (1 + shares - shares.mean())
    assert shares.max() > 1.2 * shares.min()
    counts = shares.clamp(max=size)
    whole = counts.floor().int().tolist()
    rest = (counts - counts.floor()).round(decimals=6)  # of equal ones the first frame's
    for frame in rest.argsort(descending=True, stable=True)[: left - sum(whole)].tolist():
        whole[frame] += 1
    alike = video + own
    best = [alike[n].argsort()[:count].add(n * size).tolist() for n, count in enumerate(whole)]
    places = list(itertools.chain(*best))
    others = [n for n in alike.flatten().argsort().tolist() if n not in places]
    places += others[: left - len(places)]
    wanted = [*sorted(places), *range(COUNT * size, COUNT * size + newlines)]
    assert kept(name, f"vidcom2:keep={left + newlines}") == wanted


def starts_of(means: Tensor, least: int, threshold: float) -> list[int]:
    """Where scenes begin, and the end, by the means [F, d] of frames."""
    alike = torch.cosine_similarity(means[1:], means[:-1], dim=-1)
    cuts = {n for n, cosine in enumerate(alike.tolist()) if cosine < threshold}
    cuts |= set(alike.argsort()[: least - 1].tolist())
    return [0, *(cut + 1 for cut in sorted(cuts)), len(means)]


def peaks_of(states: Tensor, nearest: int, noise: Tensor) -> Tensor:
    """Scores [n] of states [n, d] as peaks of density."""
    distance = torch.cdist(states.double(), states.double()) / states.shape[-1] ** 0.5
    density = (-(distance.sort(-1).values[:, :nearest] ** 2).mean(-1)).exp() + noise
    denser = density > density[:, None]
    return torch.where(denser, distance, distance.max()).min(-1).values * density


LOUD = 100


@pytest.fixture
def loud(monkeypatch: pytest.MonkeyPatch) -> None:
    """What breaks ties between densities is far above rounding."""
    random = View.random
    monkeypatch.setattr(View, "random", lambda *given, **named: LOUD * random(*given, **named))


def noise_of(size: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(size, generator=generator).double() * LOUD * 1e-6


@dataclass
class Gathered:
    """What stays of a video, by place among its visual tokens, and the states it has."""

    states: dict[int, Tensor] = field(default_factory=dict)
    merged: set[int] = field(default_factory=set)


def holds(name: str, spec: str, wanted: Gathered) -> None:
    """The states that enter the first layer, and which of them stand for several tokens."""
    model, inputs = shown(name)
    with entering_states(model) as found:
        trace = tpprof.forward(model, inputs, spec, new_tokens=1)
    places = sorted(wanted.states)
    origins = [-1 if place in wanted.merged else place for place in places]
    assert trace.kept[0][0].tolist() == origins
    ids = inputs["input_ids"][0]
    stays = ids != model.video_token
    visual = (~stays).nonzero()[:, 0]
    stays[visual[places]] = True
    after = (ids == model.video_token)[stays]
    states = torch.stack([wanted.states[place] for place in places])
    torch.testing.assert_close(found[0][after], states.float(), atol=1e-4, rtol=1e-4)


def fastvid(name: str, count: int, least: int, threshold: float, step: int) -> Gathered:
    """Frame by frame, scene by scene; a target is given itself, but for Qwen's models."""
    whole, itself = entering(name), "qwen" not in name
    tokens, seen = frames_of(whole), attention(name)
    size, done = tokens.shape[1], Gathered()
    newlines = range(COUNT * size, len(whole))
    left = count - len(newlines)
    context = int(left * Fraction(2, 5) / COUNT)
    base, more = divmod(left - context * COUNT, COUNT)
    salient = [seen[n].topk(base + (n < more)).indices.tolist() for n in range(COUNT)]
    for n, places in enumerate(salient):
        done.states |= {n * size + place: tokens[n, place] for place in places}
    done.states |= {place: whole[place] for place in newlines}
    for start, stop in itertools.pairwise(starts_of(tokens.mean(1), least, threshold)):
        anchors = list(range(stop - 1, start - 1, -step))
        shared, rest = divmod(context * (stop - start), len(anchors))
        every = [n * size + p for n in range(start, stop) for p in range(size)]
        for number, n in enumerate(anchors):
            pool = [place for place in range(size) if place not in salient[n]]
            scores = peaks_of(tokens[n, pool], 4, noise_of(size)[pool])
            best = scores.argsort(descending=True)[: shared + (number < rest)].tolist()
            targets = [n * size + pool[place] for place in sorted(best)]
            gone = [p for p in every if p % size not in salient[p // size]]
            gone = [p for p in gone if itself or p not in targets]
            cosines = torch.cosine_similarity(whole[gone][:, None], whole[targets][None], dim=-1)
            nearest = cosines.argmax(1) if targets else torch.empty(0)
            for index, target in enumerate(targets):
                given = whole[gone][nearest == index]
                weight = max(1 / (len(given) + 1), 0.6)
                mean = given.mean(0) if len(given) else whole[target]
                done.states[target] = weight * whole[target] + (1 - weight) * mean
                done.merged |= {target} if len(given) > itself else set()
    return done


@on_each
@pytest.mark.parametrize("scenes", [1, 2, 4])
def test_fastvid_gathers_scenes(name: str, scenes: int, loud: None) -> None:
    visual = len(entering(name))
    for share, step in ((0.3, 4), (0.4, 2), (0.15, 1), (0.7, 1)):
        count = round(visual * share)
        wanted = fastvid(name, count, scenes, -1.0, step)
        spec = f"fastvid:keep={count},scenes={scenes},step={step},threshold=-1"
        assert len(wanted.states) == count
        holds(name, spec, wanted)


def test_fastvid_cuts_where_frames_differ(loud: None) -> None:
    means = frames_of(entering("qwen2-vl")).mean(1)
    alike = torch.cosine_similarity(means[1:], means[:-1], dim=-1).sort().values
    threshold = float(alike[1:3].mean())
    assert len(starts_of(means, 1, threshold)) == 4
    spec = f"fastvid:keep=30,scenes=1,threshold={threshold}"
    holds("qwen2-vl", spec, fastvid("qwen2-vl", 30, 1, threshold, 4))


def chosen_of(frame: Tensor, worth: Tensor, count: int) -> list[int]:
    """Places in a frame [T, d], each the farthest from those before it."""
    normed = torch.nn.functional.normalize(frame, dim=-1)
    distance = (1 - normed @ normed.T) * worth
    chosen = [int(distance.sort(0).values[1].argmax())] if count else []
    while len(chosen) < count:
        nearest = distance[chosen].amin(0)
        nearest[chosen] = -torch.inf
        chosen.append(int(nearest.argmax()))
    return sorted(chosen)


def hung_of(frames: Tensor, free: list[list[int]], threshold: float, most: int) -> dict[Any, Any]:
    """Of the frames of a scene, on which place of the one before it each (frame, place) hangs."""
    found = {}
    for n in range(1, len(frames)):
        for place in free[n] if free[n - 1] else []:
            cosines = torch.cosine_similarity(frames[n, place], frames[n - 1, free[n - 1]], dim=-1)
            found[n, place] = float(cosines.max()), free[n - 1][int(cosines.argmax())]
    best = sorted(found, key=lambda at: -found[at][0])
    best = [at for at in best if found[at][0] > threshold]
    return {at: found[at][1] for at in (best if len(best) <= most else best[: max(most - 1, 0)])}


def flashvid(name: str, left: int, least: int, threshold: float, choice: str) -> Gathered:
    """Scene by scene: what is chosen, trees from their last frame on, and clusters of the rest."""
    whole, seen = entering(name).double(), attention(name).double()
    tokens, done = frames_of(whole), Gathered()
    size = tokens.shape[1]
    done.states |= {place: whole[place] for place in range(COUNT * size, len(whole))}
    each = min(math.ceil(left * Fraction(7, 10) / COUNT), left // COUNT)
    clusters = left - each * COUNT
    pools, kids = {}, {}
    shares: list[Fraction] = []
    for start, stop in itertools.pairwise(starts_of(tokens.mean(1), least, -1.0)):
        scene = tokens[start:stop].clone()
        worth = seen[start:stop] * (scene @ scene.mean((0, 1)) if choice == "scene" else 1)
        picked = [chosen_of(scene[n], worth[n], each) for n in range(stop - start)]
        free = [[p for p in range(size) if p not in places] for places in picked]
        stays = math.ceil(left * (stop - start) / COUNT)
        hung = hung_of(scene, free, threshold, (stop - start) * size - stays)
        for n in range(stop - start - 1, -1, -1):
            for (frame, place), on in hung.items():
                if frame == n:
                    scene[n - 1, on] += scene[n, place]
            for place in range(size):
                number = sum(1 for at, on in hung.items() if at[0] == n + 1 and on == place)
                kids[start + n, place] = number
                if (n, place) not in hung:
                    scene[n, place] /= 1 + number
            pools[start + n] = [p for p in free[n] if (n, p) not in hung], scene[n]
            for place in picked[n]:
                done.states[(start + n) * size + place] = tokens[start + n, place]
        count = sum(len(pools[n][0]) for n in range(start, stop))
        part, whole = clusters * (stop - start), COUNT * max(count, 1)
        shares += [Fraction(len(pools[n][0]) * part, whole) for n in range(start, stop)]
    quota = [math.floor(share) for share in shares]
    for n in sorted(range(COUNT), key=lambda n: quota[n] - shares[n])[: clusters - sum(quota)]:
        quota[n] += 1
    for n, (pool, states) in pools.items():
        points = states[pool]
        if not quota[n]:
            continue
        scores = peaks_of(points, min(quota[n], 7), noise_of(size)[pool])
        centres = scores.argsort(descending=True)[: quota[n]].tolist()
        nearest = torch.cdist(points, points[centres]).argmin(1)
        for index, centre in enumerate(centres):
            nearest[centre] = index
        for index, centre in enumerate(centres):
            place = n * size + pool[centre]
            members = points[nearest == index]
            done.states[place] = members.mean(0)
            done.merged |= {place} if len(members) > 1 or kids[n, pool[centre]] else set()
    return done


@on_each
@pytest.mark.parametrize(("scenes", "choice"), [(None, None), (1, "scene"), (3, "attention")])
def test_flashvid_hangs_tokens_on_trees(
    name: str, scenes: int | None, choice: str | None, loud: None
) -> None:
    """By default as published for Qwen's models and for LLaVA."""
    model, inputs = shown(name)
    knobs = f"scenes={scenes or 'auto'},choice={choice or 'auto'}"
    scenes = scenes or (4 if "qwen" in name else 8)
    choice = choice or ("attention" if "qwen" in name else "scene")
    newlines = len(entering(name)) % COUNT
    for keep, threshold in (("1/5", 0.8), ("3/8", 0.3), ("1/3", -1.0), ("1/2", 0.0)):
        spec = f"flashvid:keep={keep},{knobs},threshold={threshold},cut=-1"
        first, last = (stage.tokens for stage in parse(spec).plan(inputs.request).stages[1:])
        assert first is not None
        wanted = flashvid(name, first - newlines, scenes, threshold, choice)
        assert len(wanted.states) == first
        holds(name, spec, wanted)
        trace = tpprof.forward(model, inputs, spec)
        assert trace.visual_per_layer == [first] * 5 + [last] * 3
        assert not newlines or trace.kept[-1][0, -1] == len(entering(name)) - 1


@pytest.mark.parametrize("name", ["llava-onevision", "qwen3-vl"])
@pytest.mark.parametrize("spec", VIDEO)
def test_it_is_captured_and_the_same_under_each_policy(name: str, spec: str) -> None:
    """No host waits: a graph holds it."""
    model, inputs = shown(name)
    method = parse(spec, "1/2")
    expected = run(model, inputs, method)
    runtime = GraphRuntime(model, capture=Captures())
    traces = [run(model, inputs, method, runtime=runtime) for _ in range(2)]
    assert (runtime.eager_prefill, runtime.fallback, runtime.captures) == ("", "", 2)
    traces += [run(model, inputs, method, attention=policy) for policy in ("maps", "published")]
    for trace in traces:
        torch.testing.assert_close(trace.logits, expected.logits, atol=1e-4, rtol=1e-4)
        assert all(map(torch.equal, trace.kept, expected.kept))


@pytest.mark.parametrize("spec", VIDEO)
def test_it_comes_first_in_a_composition(spec: str) -> None:
    _, inputs = shown("qwen2.5-vl")
    composed = parse(f"{spec}:keep=1/2+fastv:keep=1/2,layer=6")
    assert composed.plan(inputs.request).planned
    with pytest.raises(UnsupportedError, match="comes behind another"):
        parse(f"divprune:keep=1/2+{spec}:keep=1/2").plan(inputs.request)


@on_each
def test_methods_for_pictures_take_the_videos_of_models_whose_pictures_they_take(name: str) -> None:
    """All frames together, as planned."""
    model, inputs = shown(name)
    picture = tpprof.inputs(model, image_size=SIZE).request
    for method in (affordable(parse(spec)) for spec in PRUNING):
        try:
            method.plan(picture)
        except UnsupportedError:
            with pytest.raises(UnsupportedError):
                method.plan(inputs.request)
            continue
        plan = method.plan(inputs.request)
        trace = tpprof.forward(model, inputs, method, new_tokens=2)
        if plan.planned:
            assert trace.ledger == planned(plan, inputs.request, "rows"), method.name


def test_flashvid_has_the_published_counts() -> None:
    """A quarter above the mean enters 28 layers, and three tenths of that the last eight."""
    lengths = request(SHAPES["qwen2.5-vl-7b"], before=9, after=9, size=(448, 448), frames=40)
    assert (lengths.layers, lengths.visual) == (28, 20 * 256)
    for keep in (Fraction(1, 10), Fraction(1, 4)):
        plan = parse(f"flashvid:keep={keep}").plan(lengths)
        first, second = (stage.tokens for stage in plan.stages[1:])
        assert [stage.layer for stage in plan.decoder] == [20]
        assert first == pytest.approx(1.25 * keep * lengths.visual, abs=0.5)
        assert second == pytest.approx(0.3 * first, abs=1.5)
