"""Training: what it computes is the model, and what was stopped goes on where it was."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tpprof.profiler.seer.pictures import PATCH
from tpprof.profiler.seer.training import forward, stages, trainer
from tpprof.profiler.seer.training.batches import (
    GRID,
    NONE,
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
    questions = questions_about(pictures, np.random.default_rng(0))
    text = asked(questions, trained.tokenizer, 2, suffix=suffix)
    with torch.no_grad():
        visual = trained.projector(forward.tower(trained.vision, given.pixels)[0])
        places = torch.arange(stages.TOKENS).expand(2, -1)
        found = trained._answers(visual, places, text)
        for index in (0, int((text.targets[0, :, 0] != NONE).sum()) - 1):
            length = int(text.wanted[0, index, 1]) + 1
            image = torch.full((stages.TOKENS,), trained.module.config.image_token_index)
            ids = torch.cat([trainer.BEFORE, image, text.tokens[0, index, :length]])[None]
            whole = trained.module(input_ids=ids, pixel_values=given.pixels[:1]).logits
            assert torch.allclose(found[0, index, :2], whole[0, -2:], atol=1e-4)


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


@pytest.mark.parametrize("name", ["decoder", "joint"])
def test_every_stage_has_a_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(trainer, "CACHED", 4)
    monkeypatch.setattr(stages, "CACHED", 4)
    trained = trainer.Trainer(tmp_path, 0)
    stage = dataclasses.replace(
        next(stage for stage in stages.STAGES if stage.name == name), pictures=4
    )
    given = stages.Steps(stage, seed=0)[0]
    loss, told = getattr(trained, f"_{name}")(stage, 0, given)
    loss.backward()
    assert 0 < float(loss.detach()) < 100
    assert 0 <= told["right"] <= 1
    query = trained.language.layers[0].self_attn.q_proj.weight
    assert query.grad is not None
    assert float(query.grad.abs().sum()) > 0
