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


@pytest.mark.parametrize("asked", ["prompt", "messages"])
def test_a_text_that_says_where_a_picture_goes_is_refused(
    model: Model, tmp_path: Path, asked: str
) -> None:
    """It would be taken for a picture, in silence where there are as many as are wanted."""
    text = "is <image> green"
    turns = [{"role": "user", "content": [PICTURE, {"type": "text", "text": text}]}]
    given = text if asked == "prompt" else told(tmp_path / "turns.json", turns)
    with pytest.raises(WorkloadError, match=f"--{asked}.* itself holds <image>"):
        tokenize(model, pictures=2, **{asked: given})


def test_a_content_without_parts_says_itself_where_its_picture_goes(
    model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(model, "chat_template", "{{ messages[0].content }}")
    file = told(tmp_path / "turns.json", [{"role": "user", "content": "dog <image> cat"}])
    assert [len(part) for part in tokenize(model, messages=file)] == [2, 1]


def test_parts_of_nothing_but_text_say_themselves_where_their_picture_goes(
    model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As LLaVA's conversations do; an editor's byte-order mark before them is none of it."""
    monkeypatch.setattr(model, "chat_template", "{{ messages[0].content[0].text }}")
    turns = [{"role": "user", "content": [{"type": "text", "text": "dog <image> cat"}]}]
    file = told(tmp_path / "turns.json", turns)
    Path(file).write_bytes(b"\xef\xbb\xbf" + Path(file).read_bytes())
    assert [len(part) for part in tokenize(model, messages=file)] == [2, 1]


@pytest.mark.parametrize("name", ["qwen2.5-vl", "llava-onevision"])
@pytest.mark.parametrize("kind", ["image", "video"])
def test_pictures_and_a_video_in_one_prompt_are_refused(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The tokens of the one that is not given would be embedded as if they were text."""
    model = load(name)
    tokenizer = tokenizer_of(model)
    image, video = tokenizer.convert_ids_to_tokens([model.image_token, model.video_token])
    template = TEMPLATE.replace("IMAGE", f" {image} ").replace(
        "{% else %}", "{% elif part.type == 'video' %} " + video + " {% else %}"
    )
    monkeypatch.setattr(model, "tokenizer", tokenizer)
    monkeypatch.setattr(model, "chat_template", template)
    dog = {"type": "text", "text": "dog"}
    turns = [{"role": "user", "content": [PICTURE, {"type": "video"}, dog]}]
    file = told(tmp_path / "turns.json", turns)
    other = {"image": "video", "video": "image"}[kind]
    with pytest.raises(WorkloadError, match=f"holds 1 {other} placeholders, and the request"):
        tokenize(model, messages=file, video=kind == "video")
    turns[0]["content"] = [{"type": kind}, dog]
    parts = tokenize(model, messages=told(tmp_path / "turns.json", turns), video=kind == "video")
    assert len(parts) == 2


def test_a_conversation_of_too_few_pictures_is_named(model: Model, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": [PICTURE, {"type": "text", "text": "dog"}]}]
    with pytest.raises(WorkloadError, match=r"2 are needed; check .*, and what --messages holds"):
        tokenize(model, messages=told(tmp_path / "turns.json", turns), pictures=2)
