"""HoloV's crops, their shares and their tokens, worked out again from what the tower shows."""

from __future__ import annotations

import pytest
import torch
from micro_models import SHAPES, SIZE, load
from torch import Tensor

import tpprof
from tpprof.methods import parse
from tpprof.methods.holov import HoloV
from tpprof.profiler.models.geometry import request
from tpprof.tests.methods.reference import feature_layer, laid_out, observe, run, tiles_at

CASES = {  # budgets, and the tokens of each crop
    ("internvl", "flat"): {"keep=15": [9] * 5, "keep=20": [12, 11, 11, 11]},
    ("llava", "flat"): {"keep=9": [6] + [5] * 6, "keep=13,crops=5": [8, 7, 7, 7, 7]},
    ("llava-next", "flat"): {"keep=60": [36] * 5, "keep=50": [30] * 6},
    ("llava-next", "anyres"): {"keep=60": [36] * 5, "keep=50": [30] * 6},
    ("qwen2.5-vl", "flat"): {"keep=1/2": [12, 12, 12]},
    ("llava-onevision", "anyres"): {"keep=42": [29] * 4, "keep=60": [39, 39, 38]},
    ("qwen2-vl", "flat"): {"keep=1/2": [12, 12, 12], "keep=33,crops=4": [9] * 4},
}


def share(attention: Tensor, states: Tensor) -> float:
    """What a crop counts, by the released rule: variances hold a token's own zero, too."""
    cosines = torch.cosine_similarity(states[:, None], states[None], dim=-1).fill_diagonal_(0)
    others = len(states) - 1
    mean = cosines.sum(1) / others
    variance = (cosines - mean[:, None]).square().sum(1) / others
    seen = 1000 * attention
    return float((seen + 0.09 * variance * seen.mean() / (variance.mean() + 1e-6)).mean())


def chosen(attention: Tensor, states: Tensor, sizes: list[int], count: int) -> list[int]:
    crops = torch.arange(len(attention)).split(sizes)
    worth = torch.tensor([share(attention[crop], states[crop]) for crop in crops])
    weights = worth / (worth.sum() + 1e-6)
    counts = (weights * count).floor().int().tolist()
    for crop in weights.argsort(descending=True)[: count - sum(counts)].tolist():
        counts[crop] += 1
    kept: list[int] = []
    for crop, quota in zip(crops, counts, strict=True):
        kept += crop[attention[crop].topk(min(quota, len(crop))).indices].tolist()
    others = [n for n in attention.argsort(descending=True).tolist() if n not in kept]
    return sorted(kept + others[: count - len(kept)])


@pytest.mark.parametrize(("model", "layout"), CASES, indirect=["model"])
def test_what_the_crops_keep(model: tpprof.Model, layout: str) -> None:
    truth = observe(model, tpprof.inputs(model, image_size=SIZE, layout=layout))
    attention = tiles_at(truth, feature_layer(truth)).attention
    seen = laid_out(truth, attention, -1.0)
    tokens = (seen >= 0).nonzero()[:, 0]  # without the newlines
    for spec, sizes in CASES[model.shape.architecture.name, layout].items():
        found = run(truth, f"holov:{spec}")
        kept = found.trace.kept[0][0]
        wanted = tokens[chosen(seen[tokens], truth.entering(0)[tokens], sizes, len(kept))]
        assert kept.tolist() == wanted.tolist(), spec
        visual = found.hidden[0][truth.start : truth.start + len(kept)]
        torch.testing.assert_close(visual, truth.entering(0)[wanted], rtol=1e-4, atol=1e-5)


def test_newlines_go_first_and_no_others_before_them() -> None:
    model = load("llava-next")
    inputs = tpprof.inputs(model, image_size=SIZE, layout="anyres")
    kept = tpprof.forward(model, inputs, "holov:keep=187").kept[0][0]
    assert inputs.order is not None
    newline = inputs.order == 180
    assert int(newline.sum()) == 12
    assert int(newline[kept].sum()) == 7


@pytest.mark.parametrize(("keep", "crops"), [(64, 16), (128, 8), (192, 5)])
def test_published_crops(keep: int, crops: int) -> None:
    lengths = request(SHAPES["llava-1.5-7b"], before=35, after=25, size=(336, 336))
    stage = parse(f"holov:keep={keep}").plan(lengths).stages[-1]
    size, longer = divmod(576, crops)
    squares = longer * (size + 1) ** 2 + (crops - longer) * size**2
    assert (stage.tokens, stage.flops) == (keep, 2 * squares * 4096)


def test_variance_has_the_mean_of_the_attention() -> None:
    """So a crop counts 1.09 times its attention, but where its tokens are all but orthogonal."""
    attention = torch.rand(1, 12, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(1, 12, 16, generator=torch.Generator().manual_seed(1))
    for states, usual in ((noise, True), (torch.eye(12, 16) + 0.0005 * noise, False)):
        found = HoloV()._worth(attention[None], states[None])[0, 0]
        assert float(found) == pytest.approx(share(attention[0], states[0]), rel=1e-4)
        assert (float(found) == pytest.approx(1090 * float(attention.mean()), rel=1e-4)) == usual
