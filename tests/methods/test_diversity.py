"""Which tokens stay by the rules that look for unlike ones, worked out again with transformers.

Written from the papers and the released code, token by token, apart from the package.
"""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from micro_models import SIZE
from operator_counter import FREE
from torch import Tensor
from torch.nn.functional import cosine_similarity
from torch.utils._python_dispatch import TorchDispatchMode

import tpprof
from tpprof import methods
from tpprof.profiler.models.geometry import request
from tpprof.profiler.models.model import Model
from tpprof.profiler.models.shapes import SHAPES
from tpprof.tests.methods.reference import (
    Truth,
    before_decoder,
    keys_of,
    normed,
    observe,
    run,
)
from tpprof.tests.methods.test_selection import CASES, LAYER, entering, same

every_case = pytest.mark.parametrize(("model", "layout"), CASES, indirect=["model"])

_truths: dict[tuple[str, str], Truth] = {}


@pytest.fixture
def truth(model: Model, layout: str) -> Truth:
    key = (model.name, layout)
    if key not in _truths:
        _truths[key] = observe(model, tpprof.inputs(model, image_size=SIZE, layout=layout))
    return _truths[key]


def dart(truth: Truth, shares: list[int]) -> Tensor:
    """Four pivots of the picture, four of the text; each takes its share of the least alike."""
    length = keys_of(truth, LAYER - 1).norm(p=1, dim=1)
    of_picture = truth.start + length[truth.start : truth.stop].topk(4).indices
    of_text = truth.stop + length[truth.stop :].topk(4).indices
    states, kept = normed(truth, LAYER), of_picture.tolist()
    for pivot, share in zip([*kept, *of_text.tolist()], shares, strict=True):
        left = sorted(set(range(truth.start, truth.stop)) - set(kept))
        likeness = cosine_similarity(states[pivot], states[left])
        kept += [left[place] for place in likeness.topk(share, largest=False).indices]
    return torch.tensor(sorted(kept)) - truth.start


@every_case
@pytest.mark.parametrize(("keep", "shares"), [(20, [2] * 8), (25, [3] * 5 + [2] * 3)])
def test_dart(truth: Truth, keep: int, shares: list[int]) -> None:
    """20 is the released code's 16: as many for each pivot, and the pivots of the picture."""
    chosen = dart(truth, shares)
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
    for size, share in zip(sizes, methods.quotas(count, sizes), strict=True):
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


PUBLISHED = {
    "dart": (2, (196, 132, 68)),
    "divprune": (-1, (192, 128, 64, 56)),
    "cdpruner": (-1, (128, 64, 32)),
}
"""Where methods prune LLaVA-1.5, -1 before the decoder, and how many of its 576 tokens stay."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name: str) -> None:
    layer, counts = PUBLISHED[name]
    wanted = request(SHAPES["llava-1.5-7b"], before=35, after=35, size=(336, 336))
    for count in counts:
        stage = methods.parse(name, str(count)).plan(wanted).stages[-1]
        assert (stage.layer, stage.tokens) == (layer, count)


class Launches(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.seen += not func.is_view and func._overloadpacket not in FREE
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("keep", [3, 11])
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_price_is_what_a_decision_launches(
    model: Model, name: str, keep: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, method = tpprof.inputs(model, image_size=SIZE), methods.parse(name, str(keep))
    seen: dict[methods.Stage, int] = {}
    decide = type(method).decide

    def counted(
        self: methods.Method, view: methods.View, stage: methods.Stage
    ) -> methods.Keep | None:
        with Launches() as launches:
            made = decide(self, view, stage)
        seen[stage] = launches.seen
        return made

    monkeypatch.setattr(type(method), "decide", counted)
    tpprof.forward(model, inputs, method, verify=False)
    assert seen
    for stage, launches in seen.items():
        assert stage.price is None or stage.price.launches == launches
    assert any(stage.price for stage in seen)
