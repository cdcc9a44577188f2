"""Where merged tokens stand under M-RoPE, which has no compact positions: no draw decides it."""

from __future__ import annotations

import pytest
import torch
from micro_models import load
from torch import Tensor

import tpprof
from tpprof.methods import Keep, View, parse
from tpprof.methods.sparsevlm import SparseVLM

SPECS = ["sparsevlm:keep=1/2", "sparsevlm:keep=1/3,version=1.5", "sparsevlm:keep=1/2,adaptive=true"]


@pytest.mark.parametrize("size", [(168, 168), (364, 280)], ids=["one merged", "several merged"])
@pytest.mark.parametrize("spec", SPECS)
def test_a_merged_token_stands_where_its_best_scored_member_stood(
    spec: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load("qwen2-vl")
    inputs = tpprof.inputs(model, image_size=size, batch_size=2)
    decisions: list[tuple[View, Keep, Tensor]] = []
    own = SparseVLM.decide

    def decide(self: SparseVLM, view: View, stage: object) -> Keep | None:
        keep = own(self, view, stage)  # type: ignore[arg-type]
        if keep is not None:
            decisions.append((view, keep, view.notes.remembered["raters"]))
        return keep

    monkeypatch.setattr(SparseVLM, "decide", decide)
    tpprof.forward(model, inputs, spec)
    merged_counts = set()
    for view, keep, raters in decisions:
        assert keep.merged is not None
        assert keep.features is not None
        for sample in range(2):
            rows = view.rows[sample][raters[sample] > 0]
            relevance = rows.mean(0)
            stay = keep.index[sample][~keep.merged]
            places = keep.index[sample][keep.merged]
            gone = torch.tensor([n for n in range(view.count) if n not in stay.tolist()])
            pool = gone[relevance[gone].argsort(descending=True)][: int(0.3 * len(gone)) + 1]
            assert set(places.tolist()) <= set(pool.tolist())
            assert int(pool[0]) in places.tolist(), "the best of the pool is the best of a cluster"
            merged_counts.add(len(places))
            if len(places) == 1:
                mean = view.states[sample][pool].mean(0)
                torch.testing.assert_close(keep.features[sample, -1], mean, atol=1e-5, rtol=1e-4)
    assert merged_counts == {1} if size == (168, 168) else max(merged_counts) > 1


def test_what_is_drawn_moves_no_merged_token(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load("qwen2-vl")
    inputs = tpprof.inputs(model, image_size=(168, 168))
    assert parse("sparsevlm:keep=1/2").plan(inputs.request).planned
    answers = []
    for seed in (1, 2, 3):
        generator = torch.Generator().manual_seed(seed)

        def draw(view: View, *shape: int, seed: int = 0, of: torch.Generator = generator) -> Tensor:
            return torch.rand(shape, generator=of)

        with monkeypatch.context() as patch:
            patch.setattr(View, "random", draw)
            answers.append(tpprof.forward(model, inputs, "sparsevlm:keep=1/2").logits)
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])
