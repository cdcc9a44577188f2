"""VScan's two scans, what it merges and its cut, worked out again from the model's own tensors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from micro_models import SHAPES, SIZE, load
from torch import Tensor

import tpprof
from tpprof.methods import Projected, Segment, Tower, UnsupportedError, parse
from tpprof.methods.contract.policies import Policy
from tpprof.profiler.models.geometry import request
from tpprof.tests.methods.reference import (
    Choice,
    feature_layer,
    laid_out,
    observe,
    run,
    tiles_at,
    walk,
)

CASES = {  # budget and window, tokens of each part, tokens behind the cut
    ("internvl", "flat"): ("keep=10,window=2", [3] * 5, 5),
    ("llava", "flat"): ("keep=8,window=3", [12], 4),
    ("llava", "flat", "uneven"): ("keep=10,window=2", [15], 5),
    ("llava-next", "flat"): ("keep=40,window=3", [12] * 5, 20),
    ("llava-next", "anyres"): ("keep=42,window=4", [12, 51], 21),
    ("qwen3-vl", "flat"): ("keep=12,window=4", [18], 6),
    ("qwen2.5-vl", "flat"): ("keep=12,window=4", [18], 6),
    ("llava-onevision", "anyres"): ("keep=42,window=4", [8, 55], 21),
    ("qwen2-vl", "flat"): ("keep=12,window=4", [18], 6),
}
MIDDLE = 4  # of 8 layers


def scanned(part: Segment, early: Tensor, late: Tensor, side: int, count: int) -> list[int]:
    """Best first, no window above its share; then the best of the last scan."""
    width = part.width - part.newline
    down, across = max(part.height // side, 1), max(width // side, 1)
    local = count // 2
    limit = -(-local // (down * across))
    full: dict[tuple[int, int], int] = {}
    chosen: list[int] = []
    for place in early.argsort(descending=True).tolist():
        row, column = divmod(place, part.width)
        window = min(row // side, down - 1), min(column // side, across - 1)
        if len(chosen) < local and full.get(window, 0) < limit:
            full[window] = full.get(window, 0) + 1
            chosen.append(place)
    others = [place for place in late.argsort(descending=True).tolist() if place not in chosen]
    return sorted(chosen + others[: count - local])


def merged(states: Tensor, stay: list[int], gone: list[int]) -> tuple[Tensor, list[int]]:
    members: dict[int, list[int]] = {place: [place] for place in stay}
    for place in gone:
        likeness = torch.cosine_similarity(states[place], states[stay], dim=-1)
        members[stay[int(likeness.argmax())]].append(place)
    means = torch.stack([states[members[place]].mean(0) for place in stay])
    return means, [place if len(members[place]) == 1 else -1 for place in stay]


@pytest.mark.parametrize("policy", ["rows", "published"])
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_scans_merging_and_cut(case: tuple[str, ...], policy: Policy) -> None:
    model = load(case[0])
    truth = observe(model, tpprof.inputs(model, image_size=SIZE, layout=case[1]))
    spec, counts, behind = CASES[case]
    side = int(spec[-1])
    early, late = (
        laid_out(truth, tiles_at(truth, layer).attention, -1.0)
        for layer in (1, feature_layer(truth))
    )
    base, places, kept, states = 0, [], [], []
    for part, count in zip(truth.inputs.request.segments, counts, strict=True):
        inside = slice(base, base + part.tokens)
        stay = scanned(part, early[inside], late[inside], side, count)
        patches = [n for n in range(part.tokens) if late[base + n] >= 0]
        gone = [place for place in patches if place not in stay]
        means, origins = merged(truth.entering(0)[inside], stay, gone)
        places += [base + place for place in stay]
        kept += [place if place < 0 else base + place for place in origins]
        states.append(means)
        base += part.tokens
    parts = [truth.embeddings[: truth.start], *states, truth.embeddings[truth.stop :]]
    first: dict[str, Any] = {"embeddings": torch.cat(parts), "kept": torch.tensor(kept)}
    first["places"] = torch.tensor(places)
    rows: list[Tensor] = []

    def look(attention: Tensor, visual: Tensor) -> Choice:
        rows.append(attention[-1])
        return Choice(torch.arange(len(visual)), visual)

    walk(truth, {MIDDLE: look}, compact=True, **first)  # that layer sees all of them here
    stay_on = rows[0].topk(behind).indices.sort().values
    cut = {MIDDLE - 1: lambda _, visual: Choice(stay_on, visual[stay_on])}
    walked = walk(truth, cut, compact=True, **first)
    found = run(truth, f"vscan:{spec}", policy)
    for layer in range(len(walked.kept)):
        assert found.trace.kept[layer][0].tolist() == walked.kept[layer].tolist(), layer
        close(found.hidden[layer], walked.hidden[layer])
        close(found.cosines[layer], walked.cosines[layer])
    close(found.trace.logits[0], walked.logits)
    close(found.trace.step_logits[0, 0], walked.step_logits)


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "keep", "counts"),
    [
        ("llava-1.5-7b", "64", (96, 32)),
        ("llava-1.5-7b", "128", (192, 64)),
        ("llava-next-7b", "320", (480, 160)),
        ("llava-1.5-7b", "400", (576, 224)),
    ],
)
def test_published_counts(name: str, keep: str, counts: tuple[int, int]) -> None:
    """96 tokens and, from layer 16 on, 32 are 64 on average; 480 are 96 of each tile."""
    lengths = request(SHAPES[name], before=35, after=25, size=(672, 672))
    plan = parse(f"vscan:keep={keep}").plan(lengths)
    assert plan.visual_per_layer(lengths) == [counts[0]] * 16 + [counts[1]] * 16
    assert [stage.layer for stage in plan.tower] == ([5, 22] if counts[0] < lengths.visual else [])


def test_layers_of_qwen() -> None:
    lengths = request(SHAPES["qwen2-vl-7b"], before=35, after=25, size=(672, 672))
    plan = parse("vscan").plan(lengths)
    assert [stage.site for stage in plan.tower] == [Tower(7), Tower(31)]
    assert plan.stages[2].site == Projected()
    assert plan.stages[3].layer == 14


def test_a_tower_without_an_earlier_layer() -> None:
    lengths = request(SHAPES["llava-1.5-7b"], before=35, after=25, size=(336, 336))
    assert lengths.encoder is not None
    first = replace(lengths, encoder=replace(lengths.encoder, last_layer=0))
    with pytest.raises(UnsupportedError, match="scans two layers"):
        parse("vscan").plan(first)
