"""smol-dino's training: the same results as transformers', and questions that give nothing away."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tpprof.profiler.seer.questions import POPE
from tpprof.profiler.smol_dino import trained
from tpprof.profiler.smol_dino.training import forward, lora, packed
from tpprof.profiler.smol_dino.training.bank import load, pack
from tpprof.profiler.smol_dino.training.nouns import FILES, GROUP, NOUNS
from tpprof.profiler.smol_dino.training.questions import sample
from tpprof.profiler.smol_dino.training.scenes import Bank, render, scene


def micro_module() -> Any:
    """A LLaVA of DINOv2 and a Llama of grouped heads, 16 visual tokens."""
    from transformers import (
        Dinov2Config,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=Dinov2Config(
            hidden_size=24,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=70,
            patch_size=14,
            use_mask_token=False,
        ),
        text_config=LlamaConfig(
            vocab_size=64,
            hidden_size=24,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            pad_token_id=0,
        ),
        image_token_index=4,
        vision_feature_layer=-2,
        tie_word_embeddings=True,
    )
    return LlavaForConditionalGeneration(config).eval()


@torch.no_grad()
def test_all_questions_at_once_give_what_transformers_gives_one_by_one(tmp_path: Path) -> None:
    module = micro_module()
    language = module.model.language_model
    pixels = torch.randint(0, 256, (2, 3, 56, 56)).float()
    before, tokens = torch.tensor([5, 6, 7]), torch.randint(8, 64, (2, 3, 5))
    weights = lora.add(language, torch.float32)
    for weight in weights:
        weight.normal_(0, 0.1)
    trained.save(
        tmp_path / "t.safetensors", module.model.multi_modal_projector, lora.changes(language)
    )
    visual = module.model.multi_modal_projector(forward.features(module.model.vision_tower, pixels))
    rows = torch.arange(2 * 3 * 5)
    found = forward.answers(language, before, visual, tokens, rows).view(2, 3, 5, -1)

    whole = micro_module()
    trained.apply(whole, tmp_path / "t.safetensors")
    mean, std = (torch.tensor(v)[:, None, None] for v in (forward.MEAN, forward.STD))
    for picture in range(2):
        for question in range(3):
            ids = torch.cat([before, torch.full((16,), 4), tokens[picture, question]])[None]
            given = ((pixels[picture] / 255 - mean) / std)[None]
            wanted = module(input_ids=ids, pixel_values=given).logits[0, -5:]
            torch.testing.assert_close(found[picture, question], wanted, atol=1e-5, rtol=1e-5)
            halves = whole(input_ids=ids, pixel_values=given).logits[0, -5:]
            torch.testing.assert_close(found[picture, question], halves, atol=2e-3, rtol=2e-3)


def test_a_low_rank_change_changes_what_is_trained_alone() -> None:
    module = micro_module()
    weights = lora.add(module.model.language_model, torch.float32)
    module.model.language_model(torch.tensor([[5, 6]])).last_hidden_state.sum().backward()
    with_gradient = [
        n for n, w in module.model.language_model.named_parameters() if w.grad is not None
    ]
    assert len(with_gradient) == len(weights) == 2 * len(trained.RANKS) * 3
    assert all(".parametrizations.weight.0." in name for name in with_gradient)


def test_every_cut_out_has_one_noun_and_every_noun_a_group() -> None:
    assert len({file for _, file in FILES}) == len(FILES)
    assert set(GROUP) == set(NOUNS) == {noun for noun, _ in FILES}


def test_the_words_of_a_question_tell_nothing_of_its_answer() -> None:
    """A baseline that knows all questions with their answers and no picture."""
    scenes, questions = sample(2, 80)
    for category in POPE:
        answers = {
            said: Counter(q.text for q in questions if q.category == category and q.answer == said)
            for said in ("Yes", "No")
        }
        assert answers["Yes"] == answers["No"]
        assert answers["Yes"].total() >= 80
    longest_first = sorted(NOUNS, key=len, reverse=True)
    for question in questions:
        noun = next(n for n in longest_first if f" {n} in the" in question.text)
        assert (noun in scenes[question.picture].nouns) == (question.answer == "Yes")


def test_splits_share_no_scene_and_a_scene_follows_from_its_seed() -> None:
    assert scene((1, 0, 3)).things == scene((1, 0, 3)).things
    assert scene((2, 3)).things != scene((3, 3)).things


@pytest.fixture
def bank() -> Bank:
    """Cut-outs that are one colour, round as their alpha says."""
    stamps = torch.full((len(FILES), 4, 160, 160), 200, dtype=torch.uint8)
    across = torch.arange(160) - 79.5
    stamps[:, 3] = 255 * (across[:, None] ** 2 + across**2 < 78**2)
    return Bank(stamps, torch.full((3, 3, 448, 448), 90, dtype=torch.uint8))


def test_a_patch_belongs_to_the_thing_that_covers_it(bank: Bank) -> None:
    scenes = [scene((2, index)) for index in range(4)]
    pixels, owners = render(scenes, bank)
    assert pixels.shape == (4, 3, 336, 336)
    assert owners.shape == (4, 24, 24)
    for index, shown in enumerate(scenes):
        for place, thing in enumerate(shown.things):
            row, column = int(thing.y // 14), int(thing.x // 14)
            assert owners[index, row, column] == place
            middle = pixels[index, :, int(thing.y), int(thing.x)]
            assert (middle - 200 * thing.gain).abs().max() <= 1


def test_cut_outs_and_photographs_come_back_from_their_file(tmp_path: Path) -> None:
    """A cut-out fills its square whatever lies around it, and no colour of what is transparent
    shows."""
    drawn = Image.new("RGBA", (40, 30), (0, 255, 0, 0))
    drawn.paste((200, 10, 10, 255), (10, 10, 30, 20))
    for _, file in FILES:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        drawn.save(tmp_path / f"{file}.png")
    Image.new("RGB", (60, 50), (9, 90, 200)).save(tmp_path / "photo.png")
    packed_file = tmp_path / "bank.npz"
    pack(packed_file, tmp_path, {"train": [], "test": [tmp_path / "photo.png"]})
    loaded = load(packed_file, "test")
    assert loaded.stamps.shape == (len(FILES), 4, 160, 160)
    assert loaded.photos.shape == (1, 3, 448, 448)
    assert loaded.stamps[7, :, 80, 80].tolist() == [200, 10, 10, 255]
    assert loaded.stamps[7, 3, 80].bool().sum() >= 156
    assert loaded.stamps[7, 3, 20].sum() == 0


@pytest.mark.parametrize(("kind", "number"), [("F16", np.float16), ("F32", np.float32)])
def test_packed_numbers_come_back(kind: str, number: Any) -> None:
    given = np.random.default_rng(0).normal(size=(4, 6)).astype(number)
    name, found = packed._restored(packed._compressed("some", kind, given))
    assert name == "some"
    assert (found == given).all()
