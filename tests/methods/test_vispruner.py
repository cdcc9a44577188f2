"""VisPruner's important and diverse tokens, worked out again from what the tower shows."""

from __future__ import annotations

import pytest
import torch
from micro_models import SHAPES, SIZE
from torch import Tensor

import tpprof
from tpprof.methods import parse
from tpprof.profiler.models.geometry import request
from tpprof.tests.methods.reference import feature_layer, laid_out, observe, run, tiles_at

CASES = {  # important and diverse tokens of each part, of 36 patches but for the last of anyres
    ("internvl", "flat"): ("keep=15", [(1, 2)] * 5),  # of 9 tokens, four patches each
    ("llava", "flat"): ("keep=1/3", [(6, 6)]),
    ("llava-next", "flat"): ("keep=62", [(6, 7)] * 2 + [(6, 6)] * 3),  # 13, 13, 12, 12, 12
    ("llava-next", "anyres"): ("keep=64", [(6, 6), (26, 26)]),
    ("llava-onevision", "anyres"): ("keep=63", [(4, 4), (27, 28)]),  # of 16, and of 10 x 11
    ("qwen2-vl", "flat"): ("keep=1/2,important=3/4", [(13, 5)]),
}


def chosen(attention: Tensor, states: Tensor, important: int, diverse: int) -> list[int]:
    """Remove duplicates, eight at a time, of those that are not important."""
    order = attention.argsort(descending=True).tolist()
    order = [place for place in order if attention[place] > -torch.inf]
    rest = order[important:]
    while len(rest) > diverse:
        first, second = rest[::2], rest[1::2]
        likeness = torch.cosine_similarity(states[first][:, None], states[second][None], dim=-1)
        falling = likeness.max(1).values.argsort(descending=True).tolist()
        gone = min(8, len(rest) - diverse, len(first))
        rest = [first[place] for place in falling[gone:]] + second
    return sorted(order[:important] + rest)


@pytest.mark.parametrize(("model", "layout"), CASES, indirect=["model"])
def test_important_and_diverse_tokens(model: tpprof.Model, layout: str) -> None:
    truth = observe(model, tpprof.inputs(model, image_size=SIZE, layout=layout))
    spec, counts = CASES[model.shape.architecture.name, layout]
    seen = tiles_at(truth, feature_layer(truth))
    attention = laid_out(truth, seen.attention, -torch.inf)
    states, kept, base = laid_out(truth, seen.patches, 0.0), [], 0
    for part, count in zip(truth.inputs.request.segments, counts, strict=True):
        inside = slice(base, base + part.tokens)
        kept += [base + place for place in chosen(attention[inside], states[inside], *count)]
        base += part.tokens
    found = run(truth, f"vispruner:{spec}")
    assert found.trace.kept[0][0].tolist() == kept
    visual = found.hidden[0][truth.start : truth.start + len(kept)]
    torch.testing.assert_close(visual, truth.entering(0)[kept], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "others", "diverse", "steps"),
    [("keep=128", 512, 64, 56), ("keep=64,important=3/4", 528, 16, 64)],
)
def test_published_counts(spec: str, others: int, diverse: int, steps: int) -> None:
    """64 and 64 of LLaVA-1.5's 576 tokens, or 48 and 16, eight fewer at a time."""
    lengths = request(SHAPES["llava-1.5-7b"], before=35, after=25, size=(336, 336))
    stage = parse(f"vispruner:{spec}").plan(lengths).stages[-1]
    assert stage.tokens == 576 - others + diverse
    assert others - 8 * steps == diverse
    sides = [others // 2 - 4 * step for step in range(steps)]
    assert stage.flops == sum(2 * side * side * 1024 for side in sides)
