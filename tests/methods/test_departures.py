"""Every built-in method names its source, and where it does something else; what of that can be
seen in its plan and in what it keeps is seen here."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
from command import tpprof as command
from micro_models import load, segments

import tpprof
from tpprof import methods
from tpprof.methods import Request, Rows, Segment, parse
from tpprof.methods.fastv_window import FastVWindow, _windows
from tpprof.methods.sparsevlm import COUNTS, SparseVLM
from tpprof.profiler.models.model import Model

BUILT_IN = [
    name
    for name in methods.names()
    if methods.method_class(name).__module__.startswith("tpprof.methods.")
]
SAID = {
    "fastv-reverse": ["negates the scores twice"],
    "fastv-vis": ["the last visual token is the newline behind the last row"],
    "fastv-window": ["by largest remainder", "Under anyres the newline"],
    "pooling": ["last line of Algorithm 4", "at the second layer", "smaller", "Under anyres"],
    "random": ["names no layer"],
    "sparsevlm": ["nearest share are scaled", "With M-RoPE kept tokens keep", "One count for all"],
    "mustdrop": ["Without a class token", "With M-RoPE kept tokens keep", "One count for all"],
}
ANYRES = (168, 140)  # height and width of a picture of 2 x 2 tiles with padding at its sides


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_method_names_its_source_and_its_departures(name: str) -> None:
    cls = methods.method_class(name)
    assert cls.reference("Paper")
    assert bool(cls.departures()) == (name != "vanilla")
    for sentence in cls.departures():
        assert sentence[0].isupper() or sentence[0].isdigit()
        assert sentence.endswith(".")
    for words in SAID.get(name, []):
        assert any(words in sentence for sentence in cls.departures()), words
    if name in ("pooling", "random"):
        assert not any("published" in knob.metadata.get("about", "") for knob in cls.knobs())


def test_the_command_prints_them(tmp_path: Path) -> None:
    told = command("methods", "pooling", "fastv-vis", "evs", cwd=tmp_path)
    assert told.returncode == 0
    printed = " ".join(told.stdout.split())
    assert printed.count("For videos alone: --video or --frames") == 1
    for name in ("pooling", "fastv-vis", "evs"):
        for sentence in methods.method_class(name).departures():
            assert f"- {sentence}" in printed
    assert "sparsevlm" not in printed
    unknown = command("methods", "poolin", cwd=tmp_path)
    assert unknown.returncode == 2
    assert "did you mean 'pooling'?" in unknown.stderr


def test_under_anyres_newlines_end_the_rows(llava_next: Model) -> None:
    """The last visual token is one, and a window of the last column holds them."""
    inputs = tpprof.inputs(llava_next, image_size=ANYRES, layout="anyres")
    encoder, order = inputs.request.encoder, inputs.order
    assert encoder is not None
    assert order is not None
    newline = encoder.tiles * encoder.patches
    assert int(order[-1]) == newline
    base, rest = segments(llava_next.shape, ANYRES, "anyres")
    rows = order[base.tokens :].view(rest.height, rest.width)
    assert bool((rows[:, -1] == newline).all())
    assert int((order == newline).sum()) == rest.height
    window, _ = _windows((base, rest), 2, 2, 30, torch.device("cpu"))
    last_row = window[base.tokens :].view(rest.height, rest.width)
    assert rest.width % 2
    assert int((window == last_row[0, -1]).sum()) == 2, "two newlines alone"


def test_ragged_windows_have_their_share_of_the_budget() -> None:
    window, stays = _windows((Segment(5, 7),), 2, 2, 12, torch.device("cpu"))
    sizes = torch.bincount(window)
    quota = torch.stack([part.sum() for part in stays.split(sizes.tolist())])
    assert set(sizes.tolist()) == {1, 2, 4}
    assert int(quota.sum()) == 12
    assert bool((abs(quota - 12 * sizes / 35) < 1).all())
    assert FastVWindow().reads == Rows("last")


def test_published_counts_of_sparsevlm() -> None:
    """As the released code has them by mean budget, behind layers 2, 6 and 15 of LLaVA-1.5."""
    first = {192: (300, 200, 110), 128: (303, 110, 36), 96: (238, 48, 26), 64: (66, 30, 17)}
    plus = {192: (300, 200, 118), 128: (238, 108, 60), 96: (246, 54, 28), 64: (66, 34, 20)}
    request = Request(32, 4096, 35, 25, (Segment(24, 24),))
    for version, published in (("1.5", first), ("2.0", plus)):
        for budget, counts in published.items():
            plan = parse(f"sparsevlm:version={version},keep={budget},recycle=false").plan(request)
            stages = [stage for stage in plan.stages if stage.rows]
            assert tuple(stage.tokens for stage in stages) == counts
            assert [str(stage.site) for stage in stages] == [
                "leaving layer 2",
                "leaving layer 6",
                "leaving layer 15",
            ]


@pytest.mark.parametrize("version", ["1.5", "2.0"])
def test_counts_of_sparsevlm_are_scaled_where_none_are_published(
    version: Literal["1.5", "2.0"],
) -> None:
    def counts(visual: int, keep: int) -> tuple[int, ...]:
        return SparseVLM(keep=keep, version=version).counts(
            Request(32, 4096, 35, 25, (Segment(visual // 24, 24),))
        )

    for budget, published in COUNTS[version].items():
        assert counts(576, budget) == published
    scaled = counts(2880, 960)
    ratios = [count / kept for count, kept in zip(scaled, COUNTS[version][192], strict=True)]
    assert max(ratios) == pytest.approx(min(ratios), rel=0.02)


@pytest.mark.parametrize(
    "spec", ["sparsevlm:keep=1/2,adaptive=true,scale=1", "mustdrop:global_threshold=0.06,keep=1/2"]
)
def test_rows_of_a_batch_have_one_count(spec: str) -> None:
    """That of the row which needs most: alone, the others keep fewer or as many."""
    model = load("llava")
    inputs = tpprof.inputs(model, image_size=(84, 84), batch_size=2)
    ids = inputs["input_ids"].clone()
    after = inputs.request.after
    ids[1, -after:] = ids[1, -1]  # a question of one word again and again: fewer raters, lower rank
    together = tpprof.forward(model, _with(inputs, ids), spec).visual_per_layer
    alone = []
    for row in range(2):
        one = tpprof.inputs(model, image_size=(84, 84))
        alone.append(tpprof.forward(model, _with(one, ids[row : row + 1]), spec).visual_per_layer)
    assert any(count < together[0] for count in together)
    first = next(n for n, counts in enumerate(zip(*alone, strict=True)) if len(set(counts)) > 1)
    assert together[first] == max(row[first] for row in alone)


def test_mustdrop_without_a_class_token_asks_all_patches() -> None:
    model = load("qwen2-vl")
    request = tpprof.inputs(model, image_size=(168, 168)).request
    plan = parse("mustdrop").plan(request)
    assert [stage.reads for stage in plan.tower] == [Rows("all")]
    assert plan.entering(request) == request.visual, "no windows are merged"


def _with(inputs: tpprof.methods.engine.decoder.Inputs, ids: torch.Tensor) -> object:
    inputs["input_ids"] = ids
    return inputs
