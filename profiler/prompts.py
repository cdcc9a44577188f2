"""The text of a request: a question or a conversation, in the model's chat template, as tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..methods.contract.errors import InputError, first_line
from ..reports.record.spec import ONE_REQUEST
from ..reports.sanitize import quoted

if TYPE_CHECKING:
    from .models.model import Model

QUESTION = "Is there a person in the image? Answer the question using a single word or phrase."


class WorkloadError(InputError):
    """A workload that does not exist or does not fit the model."""


def tokenize(
    model: Model,
    prompt: str | None = None,
    *,
    messages: str | None = None,
    pictures: int = 1,
    video: bool = False,
) -> list[list[int]]:
    """Token ids before each picture of the prompt, and behind the last.

    prompt: None for the usual question. messages: JSON file of a conversation instead of it.
    pictures: how many belong in the prompt. video: whether one video does instead. Raises
    WorkloadError where the prompt has no place for them.
    """
    tokenizer, wanted = model.tokenizer, 1 if video else pictures
    kind = "video" if video else "image"
    placeholder = model.video_token if video else model.image_token
    question: Any = [{"type": kind}] * wanted + [{"type": "text", "text": prompt or QUESTION}]
    turns = [{"role": "user", "content": question}]
    turns = turns if messages is None else read_conversation(messages)
    _require_plain(model, turns, "--prompt" if messages is None else "--messages: a text")
    text = model.framed(_rendered(model, turns, wanted))
    starts = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
    ids: list[int] = tokenizer(text, add_special_tokens=not starts).input_ids
    for other, token in _placeholders(model).items():
        if token != placeholder and token in ids:
            raise WorkloadError(
                f"{model.name}: its prompt holds {ids.count(token)} {other} placeholders, and the "
                f"request is of {'a video' if video else 'pictures'} alone: both in one prompt are "
                "not supported"
            )
    if ids.count(placeholder) != wanted:
        needed = "one is" if wanted == 1 else f"{wanted} are"
        mend = "check its chat template"
        if messages is not None:
            mend += ", and what --messages holds"
        raise WorkloadError(
            f"{model.name}: its prompt holds {ids.count(placeholder)} {kind} placeholders, "
            f"{needed} needed; {mend}"
        )
    places = [n for n, token in enumerate(ids) if token == placeholder]
    starting = [0, *(place + 1 for place in places)]
    return [ids[a:b] for a, b in zip(starting, [*places, len(ids)], strict=True)]


def _placeholders(model: Model) -> dict[str, int]:
    """Ids of what stands for pictures and, where the model takes them, for videos."""
    found = {"image": model.image_token}
    if model.shape.architecture.takes_video:
        found["video"] = model.video_token
    return found


def _require_plain(model: Model, turns: list[dict[str, Any]], where: str) -> None:
    """Refuse a conversation of parts whose texts hold what stands for a picture or a video: it
    would be taken for one. where: what holds the texts. Raises WorkloadError."""
    names = model.tokenizer.convert_ids_to_tokens(list(_placeholders(model).values()))
    parts = [
        part for turn in turns if isinstance(turn["content"], list) for part in turn["content"]
    ]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    if len(texts) == len(parts):  # nothing but text: it says itself where pictures go
        return
    for name in filter(None, names):
        if any(name in text for text in texts):
            raise WorkloadError(
                f"{where} itself holds {name}, where the picture goes: leave it out, the chat "
                "template puts it there"
            )


def _rendered(model: Model, turns: list[dict[str, Any]], pictures: int) -> str:
    """A conversation as text. pictures: placeholders that a prompt without a template gets."""
    if not model.chat_template:
        if len(turns) > 1 or not isinstance(turns[0]["content"], list):
            raise WorkloadError(
                f"{model.name} has no chat template, which --messages needs: use --prompt"
            )
        asked = turns[0]["content"][-1].get("text", "")
        return "USER: " + f"{model.image_text}\n" * pictures + f"{asked} ASSISTANT:"
    try:
        rendered: str = model.tokenizer.apply_chat_template(
            turns,
            chat_template=model.chat_template,
            tokenize=False,
            add_generation_prompt=True,
        )
    except Exception as error:  # a template is a program, which fails in any way
        raise WorkloadError(
            f"{model.name}: its chat template cannot be rendered ({first_line(error)}); "
            "use --text-tokens BEFORE,AFTER, which needs none"
        ) from error
    return rendered


def read_conversation(file: str) -> list[dict[str, Any]]:
    """Messages of a conversation, as chat templates take them; raises WorkloadError."""
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise WorkloadError(f"--messages {quoted(file, 300)}: {first_line(error)}") from error
    if isinstance(found, list) and found and all(isinstance(each, list) for each in found):
        raise WorkloadError(
            f"--messages {quoted(file, 300)}: it holds a list of {len(found)} conversations, and "
            f"--messages {ONE_REQUEST.replace('batch_size', '--batch-size')}"
        )
    if not isinstance(found, list) or not found or not all(map(_is_message, found)):
        raise WorkloadError(
            f"--messages {quoted(file, 300)}: it holds no list of messages, each with a role and a "
            'content, a text or a list of parts such as {"type": "text", "text": ...}'
        )
    return list(found)


def _is_message(found: Any) -> bool:
    """Whether it is what chat templates take: a role, and a text or parts that say their type."""
    if not isinstance(found, dict) or not isinstance(found.get("role"), str):
        return False
    content = found.get("content")
    if isinstance(content, str):
        return True
    return isinstance(content, list) and bool(content) and all(map(_is_part, content))


def _is_part(found: Any) -> bool:
    if not isinstance(found, dict) or not isinstance(found.get("type"), str):
        return False
    return found["type"] != "text" or isinstance(found.get("text"), str)
