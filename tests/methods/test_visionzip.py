"""VisionZip's dominant and contextual tokens, worked out again token by token from what
transformers' tower shows."""

from __future__ import annotations

import pytest
import torch
from micro_models import SHAPES, SIZE, load
from torch import Tensor

import tpprof
from tpprof.methods import parse
from tpprof.profiler.models.geometry import request
from tpprof.tests.methods.reference import (
    Truth,
    eager,
    feature_layer,
    laid_out,
    observe,
    project,
    run,
    tiles_at,
)

CASES = {  # budget, and of each part the dominant and the contextual tokens
    ("internvl", "flat"): ("keep=20", [(3, 1)] * 5),
    ("llava", "flat"): ("keep=1/3", []),
    ("llava-next", "flat"): ("keep=1/3", []),
    ("llava-next", "anyres"): ("keep=64", [(10, 2), (44, 8)]),  # of 36, and of 12 x 13
    ("llava-onevision", "anyres"): ("keep=63", [(7, 1), (46, 9)]),  # of 16, and of 10 x 11
    ("qwen2-vl", "flat"): ("keep=1/2", [(15, 3)]),
}


def zipped(
    attention: Tensor, keys: Tensor, states: Tensor, dominant: int, contextual: int
) -> tuple[list[int], Tensor]:
    """Places of the dominant tokens, then -1 for each contextual one, and the states of all."""
    patches = [n for n in range(len(attention)) if attention[n] > -torch.inf]
    stay = sorted(attention.topk(dominant).indices.tolist())
    rest = [n for n in patches if n not in stay]
    step = len(rest) // contextual
    targets = rest[::step][:contextual]
    groups: dict[int, list[int]] = {target: [] for target in targets}
    for token in rest:
        if token not in groups:
            likeness = torch.cosine_similarity(keys[token], keys[targets], dim=-1)
            groups[targets[int(likeness.argmax())]].append(token)
    made = [
        states[target] + (states[members].mean(0) if members else 0)
        for target, members in groups.items()
    ]
    return stay + [-1] * contextual, torch.stack([*states[stay], *made])


def in_tower(truth: Truth, count: int, contextual: int) -> tuple[list[int], Tensor]:
    """Every tile keeps its class token, the dominant patches and the contextual tokens."""
    seen = tiles_at(truth, feature_layer(truth))
    kept, states = [], []
    for tile in range(len(seen.patches)):
        places, made = zipped(
            seen.attention[tile],
            seen.keys[tile],
            seen.patches[tile],
            count - contextual - 1,
            contextual,
        )
        base = tile * seen.patches.shape[1]
        kept += [-1] + [place if place < 0 else base + place for place in places]
        states.append(torch.cat([seen.cls[tile], made]))
    with eager(truth.model):
        return kept, project(
            truth.model, torch.nn.functional.pad(torch.stack(states), (0, 0, 1, 0))
        )


def behind_projector(truth: Truth, counts: list[tuple[int, int]]) -> tuple[list[int], Tensor]:
    """Every part keeps (dominant, contextual) of its tokens."""
    seen = tiles_at(truth, feature_layer(truth))
    attention = laid_out(truth, seen.attention, -torch.inf)
    keys, kept, states, base = laid_out(truth, seen.keys, 0.0), [], [], 0
    for part, count in zip(truth.inputs.request.segments, counts, strict=True):
        inside = slice(base, base + part.tokens)
        places, made = zipped(attention[inside], keys[inside], truth.entering(0)[inside], *count)
        kept += [place if place < 0 else base + place for place in places]
        states.append(made)
        base += part.tokens
    return kept, torch.cat(states)


@pytest.mark.parametrize(("model", "layout"), CASES, indirect=["model"])
def test_what_is_kept_and_what_is_merged(model: tpprof.Model, layout: str) -> None:
    truth = observe(model, tpprof.inputs(model, image_size=SIZE, layout=layout))
    spec, counts = CASES[model.shape.architecture.name, layout]
    kept, states = behind_projector(truth, counts) if counts else in_tower(truth, 12, 2)
    found = run(truth, f"visionzip:{spec}")
    assert found.trace.kept[0][0].tolist() == kept
    visual = found.hidden[0][truth.start : truth.start + len(kept)]
    torch.testing.assert_close(visual, states, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("keep", "kept"), [(192, (162, 30)), (128, (108, 20)), (64, (54, 10))])
@pytest.mark.parametrize("name", ["llava-1.5-7b", "llava-next-7b"])
def test_published_counts(name: str, keep: int, kept: tuple[int, int]) -> None:
    """As the authors' scripts have them for LLaVA-1.5, and for each tile of LLaVA-NeXT."""
    lengths = request(SHAPES[name], before=35, after=25, size=(672, 672))
    assert lengths.encoder is not None
    tiles = lengths.encoder.tiles
    method = parse(f"visionzip:keep={keep * tiles}")
    (stage,) = method.plan(lengths).stages
    assert stage.tokens == keep
    dominant, contextual = kept
    rest = 576 - (dominant - 1) - contextual
    assert stage.flops == 2 * rest * contextual * (64 + 1024)


def test_a_budget_that_tiles_cannot_share() -> None:
    model = load("llava-next")
    lengths = tpprof.inputs(model, image_size=SIZE).request
    plan = parse("visionzip:keep=64").plan(lengths)
    assert plan.note == "its 5 tiles keep 12 tokens each: 60 in all"
    assert plan.entering(lengths) == 60
    with pytest.raises(tpprof.methods.BudgetError, match="each of 5 tiles"):
        parse("visionzip:keep=4").plan(lengths)


def test_a_part_that_keeps_nothing() -> None:
    """The base tile's share of one token is none."""
    model = load("llava-next")
    inputs = tpprof.inputs(model, image_size=SIZE, layout="anyres")
    (kept,) = tpprof.forward(model, inputs, "visionzip:keep=1").kept[0].tolist()
    assert 36 <= kept[0] < 192
