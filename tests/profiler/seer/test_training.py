"""Training: what it computes is the model, and what was stopped goes on where it was."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tpprof.profiler.seer.model import VOCABULARY, new_tokenizer
from tpprof.profiler.seer.pictures import KINDS, PATCH, SIDE
from tpprof.profiler.seer.questions import CLEAR, Question
from tpprof.profiler.seer.training import forward, stages, trainer
from tpprof.profiler.seer.training.batches import (
    GRID,
    LOOKS,
    NONE,
    Mix,
    asked,
    cropped,
    pictures_of,
    questions_about,
    seen,
)

STAGES = tuple(
    dataclasses.replace(stage, steps=2, pictures=2, warm=1)
    for stage in stages.STAGES
    if stage.name in ("crops", "whole")
)[1:]


@pytest.mark.parametrize("suffix", [False, True])
def test_answers_are_those_of_transformers(tmp_path: Path, suffix: bool) -> None:
    trained = trainer.Trainer(tmp_path, seed=1)
    pictures = pictures_of(9, 0, 2)
    given = seen(pictures)
    questions = questions_about(pictures, np.random.default_rng(0), Mix())
    text = asked(questions, trained.tokenizer, pictures, suffix=suffix, most=16)
    with torch.no_grad():
        visual = trained.projector(forward.tower(trained.vision, given.pixels)[0])
        places = torch.arange(stages.TOKENS).expand(2, -1)
        found, _ = trained._answers(visual, places, text)
        for index in (0, int((text.targets[0, :, 0] != NONE).sum()) - 1):
            length = int(text.wanted[0, index, 1]) + 1
            image = torch.full((stages.TOKENS,), trained.module.config.image_token_index)
            ids = torch.cat([trainer.BEFORE, image, text.tokens[0, index, :length]])[None]
            whole = trained.module(input_ids=ids, pixel_values=given.pixels[:1]).logits
            assert torch.allclose(found[0, index, :2], whole[0, -2:], atol=1e-4)


def test_nouns_are_to_look_like_what_they_name(tmp_path: Path) -> None:
    (shown,) = pictures_of(9, 0, 1)
    thing = shown.things[0]
    other = next(kind for kind in KINDS if kind not in shown.kinds)
    questions = [
        Question(0, "random", f"Is there a {' '.join(kind)} in the image?", kind != other)
        for kind in (thing.kind, other)
    ]
    text = asked(questions, new_tokenizer(), [shown], suffix=False, most=2)
    assert [VOCABULARY[text.tokens[0, i, text.nouns[0, i, 0]]] for i in (0, 1)] == [
        thing.shape,
        other[1],
    ]
    words = [
        None if index == NONE else VOCABULARY[group[index]]
        for index, (group, _) in zip(text.looks[0, 0, 0].tolist(), LOOKS.values(), strict=True)
    ]
    row = "top" if thing.y < SIDE / 2 else "bottom"
    column = "left" if thing.x < SIDE / 2 else "right"
    assert words[0] in ((row,) if abs(thing.y - SIDE / 2) > CLEAR else (None,))
    assert words[1] in ((column,) if abs(thing.x - SIDE / 2) > CLEAR else (None,))
    assert words[2:] == [thing.size, thing.texture]
    assert (text.looks[0, 1] == NONE).all()


def test_a_later_stage_starts_from_saved_weights(tmp_path: Path) -> None:
    first = trainer.Trainer(tmp_path / "first", 0, STAGES[:1])
    first.run()
    later = trainer.Trainer(
        tmp_path / "later", 1, STAGES, start=2, weights=tmp_path / "first" / "checkpoint"
    )
    later.run()  # there is no third
    weights = later.module.state_dict()
    for name, weight in first.module.state_dict().items():
        assert torch.equal(weight.half().float(), weights[name]), name


def test_pieces_of_pictures_keep_their_labels() -> None:
    given = seen(pictures_of(9, 0, 2))
    cut = cropped(given, (3, 5), GRID // 2)
    rows, columns = slice(3 * PATCH, 15 * PATCH), slice(5 * PATCH, 17 * PATCH)
    assert torch.equal(cut.pixels, given.pixels[:, :, rows, columns])
    shapes = given.labels["shape"].view(2, GRID, GRID)
    assert torch.equal(cut.labels["shape"], shapes[:, 3:15, 5:17].flatten(1))


def test_what_was_stopped_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "EVERY", 0.0)  # keeps every step
    whole = trainer.Trainer(tmp_path / "whole", 0, STAGES)
    whole.run()
    stopped = trainer.Trainer(tmp_path / "stopped", 0, STAGES)
    keep = stopped._keep

    def keep_and_stop(index: int, step: int, optimiser: object) -> None:
        keep(index, step, optimiser)
        if index == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(stopped, "_keep", keep_and_stop)
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    again = trainer.Trainer(tmp_path / "stopped", 0, STAGES, workers=1)  # draws the same
    again.run()
    weights = again.module.state_dict()
    for name, weight in whole.module.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    assert "goes on at stage 1, step 1" in (tmp_path / "stopped" / "training.log").read_text()


@pytest.mark.parametrize("index", range(3, len(stages.STAGES)))
def test_every_stage_that_asks_has_a_loss(tmp_path: Path, index: int) -> None:
    trained = trainer.Trainer(tmp_path, 0)
    stage = dataclasses.replace(stages.STAGES[index], pictures=4, kept=4)
    given = stages.Steps(stage, seed=0)[0]
    loss, told = getattr(trained, f"_{stage.name}")(stage, 0, given)
    loss.backward()
    assert 0 < float(loss.detach()) < 100
    assert 0 <= told["right"] <= 1
    query = trained.language.layers[0].self_attn.q_proj.weight
    assert query.grad is not None
    assert float(query.grad.abs().sum()) > 0
