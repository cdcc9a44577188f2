"""POPE's own files: what is asked, and where the pictures are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...methods.contract.errors import InputError
from ...reports.record.accuracy import YesNoQuestion
from ...reports.sanitize import quoted

CATEGORIES = ("random", "popular", "adversarial")
SUFFIX = "Answer the question using a single word or phrase."
"""What LLaVA, and papers with it, add to each question, on a line of its own."""


class QuestionsError(InputError):
    """Questions, or their pictures, that are not there or cannot be read."""


def read_pope(folder: Path) -> list[YesNoQuestion]:
    """The questions of a folder that holds POPE's `coco_pope_{random,popular,adversarial}.json`:
    a JSON object a line, with question_id, image, text and label. Raises QuestionsError."""
    if not folder.is_dir():
        raise QuestionsError(f"{quoted(str(folder), 300)}: no such folder of annotations")
    return [question for category in CATEGORIES for question in _read_category(folder, category)]


def require_pictures(questions: list[YesNoQuestion], folder: Path) -> None:
    """Raises QuestionsError where a picture is not there: before any model is loaded."""
    if not folder.is_dir():
        raise QuestionsError(f"{quoted(str(folder), 300)}: no such folder of pictures")
    names = dict.fromkeys(question.picture for question in questions)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise QuestionsError(
            f"{quoted(str(folder), 300)}: {len(missing)} of {len(names)} pictures are missing, "
            f"{quoted(missing[0])} first; give the folder that holds them (for POPE: COCO's "
            "val2014)"
        )


def _read_category(folder: Path, category: str) -> Iterator[YesNoQuestion]:
    found = sorted(folder.glob(f"*pope_{category}.json"))
    if len(found) != 1:
        listed = ", ".join(path.name for path in found) or "none"
        raise QuestionsError(
            f"{quoted(str(folder), 300)}: one file coco_pope_{category}.json is needed, and there "
            f"is {listed}"
        )
    seen = set()
    for number, line in enumerate(_lines(found[0]), 1):
        if not line.strip():
            continue
        question = _question(line, category, f"{found[0].name} line {number}")
        if question.id in seen:
            raise QuestionsError(
                f"{found[0].name} line {number}: question {quoted(question.id)} is there already"
            )
        seen.add(question.id)
        yield question
    if not seen:
        raise QuestionsError(f"{quoted(str(found[0]), 300)} holds no question")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "no UTF-8"
        raise QuestionsError(f"{quoted(str(path), 300)} cannot be read ({why})") from error


def _question(line: str, category: str, where: str) -> YesNoQuestion:
    wanted = "a JSON object with question_id, image, text and label"
    try:
        given: Any = json.loads(line)
        number, image, text = str(given["question_id"]), given["image"], given["text"]
        label = given["label"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise QuestionsError(f"{where}: {wanted} is needed") from error
    if not (isinstance(image, str) and image and isinstance(text, str) and text.strip()):
        raise QuestionsError(f"{where}: {wanted} is needed")
    if label not in ("yes", "no"):
        raise QuestionsError(f"{where}: its label is {quoted(label)}; known: yes, no")
    if "\0" in image or Path(image).is_absolute() or ".." in Path(image).parts:
        raise QuestionsError(f"{where}: its image {quoted(image)} lies in no folder of pictures")
    return YesNoQuestion(
        id=number, category=category, picture=image, prompt=f"{text}\n{SUFFIX}", label=label
    )
