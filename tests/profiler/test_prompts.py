"""Conversations from files, and files that hold none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from micro_models import load
from micro_tokenizer import TEMPLATE, tokenizer_of

from tpprof.profiler.models.model import Model
from tpprof.profiler.prompts import WorkloadError, tokenize

PICTURE = {"type": "image"}


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    """Its chat template puts a placeholder where a picture goes."""
    model = load("llava")
    monkeypatch.setattr(model, "tokenizer", tokenizer_of(model))
    monkeypatch.setattr(model, "chat_template", TEMPLATE.replace("IMAGE", " <image> "))
    return model


def told(file: Path, found: object) -> str:
    file.write_text(found if isinstance(found, str) else json.dumps(found))
    return str(file)


def test_a_conversation_has_its_pictures_where_its_turns_have_them(
    model: Model, tmp_path: Path
) -> None:
    turns = [
        {"role": "user", "content": [PICTURE, {"type": "text", "text": "dog"}]},
        {"role": "user", "content": [PICTURE, PICTURE, {"type": "text", "text": "green cat"}]},
    ]
    file = told(tmp_path / "turns.json", turns)
    parts = tokenize(model, messages=file, pictures=3)
    words = [" ".join(model.tokenizer.convert_ids_to_tokens(part)) for part in parts]
    assert words == ["<s> SYSTEM USER :", "dog USER :", "", "green cat ASSISTANT :"]
    with pytest.raises(WorkloadError, match="holds 3 image placeholders, 2 are needed"):
        tokenize(model, messages=file, pictures=2)


@pytest.mark.parametrize(
    "found",
    [
        "[" * 100_000,
        "no JSON",
        {},
        [],
        [None],
        [{"role": "user"}],
        [{"role": 1, "content": "dog"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": []}],
        [{"role": "user", "content": [None]}],
        [{"role": "user", "content": ["dog"]}],
        [{"role": "user", "content": [{"text": "dog"}]}],
        [{"role": "user", "content": [{"type": "text"}]}],
    ],
    ids=lambda found: str(found)[:40],
)
def test_what_is_no_conversation_is_one_line(model: Model, tmp_path: Path, found: object) -> None:
    with pytest.raises(WorkloadError, match=r"--messages .*turns.json") as no:
        tokenize(model, messages=told(tmp_path / "turns.json", found))
    assert "\n" not in str(no.value)
