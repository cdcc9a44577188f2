"""Which tokens stay by the rules that look for unlike ones, worked out again with transformers.

Written from the papers and the released code, token by token, apart from the package.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch
from micro_models import SHAPES, SIZE
from torch import Tensor
from torch.nn.functional import cosine_similarity

import tpprof
from tpprof import methods
from tpprof.profiler.models.geometry import request
from tpprof.profiler.models.model import Model
from tpprof.tests.methods.reference import (
    Truth,
    Walk,
    before_decoder,
    clip,
    eager,
    keys_of,
    normed,
    observe,
    observed,
    project,
    run,
    walk,
)
from tpprof.tests.methods.test_selection import CASES, LAYER, entering, same

every_case = pytest.mark.parametrize(("model", "layout"), CASES, indirect=["model"])


@pytest.fixture
def truth(model: Model, layout: str) -> Truth:
    return observed(model, layout)


def shares(count: int, sizes: list[int]) -> list[int]:
    """`count` in proportion to sizes, rounded down, and one more where the remainder is largest."""
    exact = [Fraction(count * size, sum(sizes)) for size in sizes]
    whole = [math.floor(share) for share in exact]
    order = sorted(range(len(sizes)), key=lambda part: whole[part] - exact[part])
    for part in order[: count - sum(whole)]:
        whole[part] += 1
    return whole


def dart(truth: Truth, turns: list[int]) -> Tensor:
    """Four pivots of the picture, four of the text; each takes its share of the least alike."""
    length = keys_of(truth, LAYER - 1).norm(p=1, dim=1)
    of_picture = truth.start + length[truth.start : truth.stop].topk(4).indices
    of_text = truth.stop + length[truth.stop :].topk(4).indices
    states, kept = normed(truth, LAYER), of_picture.tolist()
    for pivot, share in zip([*kept, *of_text.tolist()], turns, strict=True):
        left = sorted(set(range(truth.start, truth.stop)) - set(kept))
        likeness = cosine_similarity(states[pivot], states[left])
        kept += [left[place] for place in likeness.topk(share, largest=False).indices]
    return torch.tensor(sorted(kept)) - truth.start


@every_case
@pytest.mark.parametrize(("keep", "turns"), [(20, [2] * 8), (25, [3] * 5 + [2] * 3)])
def test_dart(truth: Truth, keep: int, turns: list[int]) -> None:
    """20 is the released code's 16: as many for each pivot, and the pivots of the picture."""
    chosen = dart(truth, turns)
    assert len(chosen) == keep
    same(run(truth, f"dart:keep={keep},layer={LAYER}"), entering(truth, chosen))


def test_dart_keeps_pivots_of_the_picture_first(llava_next: Model) -> None:
    truth = observe(llava_next, tpprof.inputs(llava_next, image_size=SIZE))
    length = keys_of(truth, LAYER - 1).norm(p=1, dim=1)[truth.start : truth.stop]
    for keep in (1, 3, 4):
        chosen = length.topk(keep).indices.sort().values
        kept = run(truth, f"dart:keep={keep},layer={LAYER}").trace.kept[LAYER]
        assert kept[0].tolist() == chosen.tolist()


def max_min(states: Tensor, count: int) -> list[int]:
    """Places of `count` states, each the farthest from all before it."""
    distance = 1 - cosine_similarity(states[:, None], states[None], dim=2)
    alone = distance.clone().fill_diagonal_(torch.inf).min(1).values
    kept = [int(alone.argmax())]
    while len(kept) < count:
        left = [place for place in range(len(states)) if place not in kept]
        kept.append(left[int(distance[left][:, kept].min(1).values.argmax())])
    return kept


@every_case
@pytest.mark.parametrize("keep", ["1/9", "1/2"])
def test_divprune(truth: Truth, keep: str) -> None:
    count = round(Fraction(keep) * truth.visual)
    chosen = torch.tensor(sorted(max_min(truth.entering(0), count)))
    same(run(truth, f"divprune:keep={keep}"), before_decoder(truth, chosen))


def most_volume(states: Tensor, relevance: Tensor, count: int) -> list[int]:
    """Places of `count` states, each adding most to the determinant of those kept."""
    cosines = cosine_similarity(states[:, None], states[None], dim=2)
    kernel = relevance[:, None] * cosines * relevance
    kept: list[int] = []
    while len(kept) < count:
        left = [place for place in range(len(states)) if place not in kept]
        sets = torch.tensor([[*kept, place] for place in left])
        volume = torch.linalg.slogdet(kernel[sets[:, :, None], sets[:, None]]).logabsdet
        kept.append(left[int(volume.argmax())])
    return kept


@every_case
@pytest.mark.parametrize("keep", ["1/9", "1/4"])
def test_cdpruner(truth: Truth, keep: str) -> None:
    """Every tile for itself, with its share; under anyres the joined tiles are one."""
    states = truth.entering(0).double()
    text = truth.embeddings[truth.stop :].double().mean(0)
    likeness = cosine_similarity(states, text[None])
    relevance = (likeness - likeness.min() + 1e-6) / (likeness.max() - likeness.min())
    count, chosen, start = round(Fraction(keep) * truth.visual), [], 0
    sizes = [segment.tokens for segment in truth.inputs.request.segments]
    for size, share in zip(sizes, shares(count, sizes), strict=True):
        part = slice(start, start + size)
        chosen += [start + place for place in most_volume(states[part], relevance[part], share)]
        start += size
    same(run(truth, f"cdpruner:keep={keep}"), before_decoder(truth, torch.tensor(sorted(chosen))))


def test_cdpruner_where_nothing_new_is_left(model: Model) -> None:
    """More tokens than their states have dimensions, and a picture of one color."""
    inputs = tpprof.inputs(model, visual_tokens=140)
    inputs["inputs_embeds"][:, inputs.request.before :][:, :70] = 1.0
    kept = tpprof.forward(model, inputs, "cdpruner:keep=100").kept[0][0]
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert len(kept) == 100


def weights(states: Tensor, groups: int) -> Tensor:
    """What tokens [n, d] weigh in the first components, iterated 16 times from a seeded start."""
    squashed = states.sigmoid()
    centred = squashed - squashed.mean(1, keepdim=True)
    start = torch.rand(len(states), groups, generator=torch.Generator().manual_seed(0))
    basis = start.to(states.dtype)
    for _ in range(16):
        basis = torch.linalg.qr(centred @ (centred.T @ basis)).Q
    return basis.abs()


def grouped(
    group: Tensor, score: Tensor, cosines: Tensor, threshold: float, budget: int, count: int
) -> list[int]:
    """Group by group: those that survive suppression, then the suppressed; every group its share,
    counted as the released code does."""
    queues, survivors = [], []
    for number in range(max(1, budget // 4)):
        left = [int(i) for i in (group == number).nonzero()[:, 0]]
        left.sort(key=lambda i: -float(score[i]))
        pruned: list[int] = []
        kept: list[int] = []
        while left:
            kept.append(left.pop(0))
            pruned += [i for i in left if cosines[kept[-1], i] > threshold]
            left = [i for i in left if i not in pruned]
        queues.append(kept + sorted(pruned, key=lambda i: -float(score[i])))
        survivors.append(len(kept))
    sizes = [len(queue) for queue in queues]
    least = [min(1, size) for size in sizes]
    most = [min(5 * math.ceil(budget / 64), kept) for kept in survivors]
    while sum(most) < budget:
        most = [min(bound + 1, size) for bound, size in zip(most, sizes, strict=True)]
    others, total = count - sum(least), sum(survivors)
    ends = [round(Fraction(others * upto, total)) for upto in itertools.accumulate(survivors)]
    wanted = [one + end - start for one, start, end in zip(least, [0, *ends], ends, strict=False)]
    given = [min(share, bound) for share, bound in zip(wanted, most, strict=True)]
    for number in sorted(range(len(given)), key=lambda i: -survivors[i]):
        given[number] += min(most[number] - given[number], count - sum(given))
    return sorted(i for queue, share in zip(queues, given, strict=True) for i in queue[:share])


def prunesid_before_the_decoder(truth: Truth, count: int) -> Walk:
    """As the released code does with Qwen2-VL."""
    states, chosen, start = truth.entering(0).double(), [], 0
    sizes = [segment.tokens for segment in truth.inputs.request.segments]
    for size, share in zip(sizes, shares(count, sizes), strict=True):
        part = states[start : start + size]
        weight, group = weights(part, max(1, share // 4)).max(1)
        cosines = cosine_similarity(part[:, None], part[None], dim=2)
        threshold = max(share / (size / 18), 1) * float(cosines.triu().mean())
        places = grouped(group, weight, cosines, threshold, share, share)
        chosen += [start + place for place in places]
        start += size
    return before_decoder(truth, torch.tensor(chosen))


def prunesid_in_the_tower(truth: Truth, count: int) -> Walk:
    """Tile by tile, and the class token as one of its tokens."""
    with eager(truth.model):
        out = clip(truth.model, truth.inputs)
    hidden, attention = out.hidden_states[-2], out.attentions[-2].mean(1)[:, 0, 1:]
    tokens, kept, share = [], [], count // len(hidden)
    for tile, (states, score) in enumerate(zip(hidden, attention, strict=True)):
        patches = states[1:].double()
        cosines = cosine_similarity(patches[:, None], patches[None], dim=2)
        pairs = torch.ones_like(cosines, dtype=torch.bool).triu(1)
        threshold = share * 18 / len(patches) * float(cosines[pairs].mean())
        group = weights(patches, max(1, share // 4)).argmax(1)
        places = torch.tensor(grouped(group, score, cosines, threshold, share, share - 1))
        tokens.append(torch.cat([states[:1], states[:1], states[1 + places]]))
        kept.append(torch.cat([torch.tensor([-1]), tile * len(patches) + places]))
    with torch.no_grad():
        projected = project(truth.model, torch.stack(tokens))
    around = [truth.embeddings[: truth.start], projected, truth.embeddings[truth.stop :]]
    return walk(truth, {}, compact=True, embeddings=torch.cat(around), kept=torch.cat(kept))


@every_case
@pytest.mark.parametrize("keep", ["1/6", "1/2"])
def test_prunesid(truth: Truth, keep: str) -> None:
    tower = truth.inputs.request.tower
    inside = tower.has_cls and tower.mergeable
    rule = prunesid_in_the_tower if inside else prunesid_before_the_decoder
    same(run(truth, f"prunesid:keep={keep}"), rule(truth, round(Fraction(keep) * truth.visual)))


def test_components_are_the_principal_ones() -> None:
    """Where their variances are well apart."""
    axes = torch.linalg.qr(torch.randn(40, 4, generator=torch.Generator().manual_seed(3))).Q
    samples = torch.randn(64, 4, generator=torch.Generator().manual_seed(4))
    tokens = 0.1 * axes @ torch.diag(torch.tensor([16.0, 8.0, 4.0, 2.0])) @ samples.T
    found = methods.component_weights(tokens[None], torch.rand(40, 4), 16)[0]
    squashed = tokens.double().sigmoid()
    covariance = torch.cov(squashed)
    largest = torch.linalg.eigh(covariance).eigenvectors[:, -4:].flip(1).abs()
    torch.testing.assert_close(found.double(), largest, atol=1e-3, rtol=0)


def test_prunesid_says_which_budgets_tiles_cannot_share(llava_next: Model) -> None:
    inputs = tpprof.inputs(llava_next, image_size=SIZE)
    plan = methods.parse("prunesid:keep=63").plan(inputs.request)
    assert plan.note == "65 visual tokens stay, not 63: all tiles keep 13"
    assert plan.entering(inputs.request) == 65
    assert not methods.parse("prunesid:keep=60").plan(inputs.request).note
    for keep in (1, 5, 9):
        kept = tpprof.forward(llava_next, inputs, f"prunesid:keep={keep}").kept[0][0]
        assert len(kept) == max(5, round(keep / 5) * 5)


PUBLISHED = {
    "dart": (2, (196, 132, 68)),
    "divprune": (-1, (192, 128, 64, 56)),
    "cdpruner": (-1, (128, 64, 32)),
    "prunesid": (22, (192, 128, 64)),
}
"""Where methods prune LLaVA-1.5 (-1 before the decoder, 22 in its tower), and how many of its 576
tokens stay."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name: str) -> None:
    layer, counts = PUBLISHED[name]
    wanted = request(SHAPES["llava-1.5-7b"], before=35, after=35, size=(336, 336))
    for count in counts:
        stage = methods.parse(name, str(count)).plan(wanted).stages[-1]
        assert (stage.layer, stage.tokens) == (layer, count)
