"""POPE's own files: what is asked, and where the pictures are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...methods.contract.errors import InputError
from ...reports.record.accuracy import YesNoQuestion
from ...reports.sanitize import quoted

CATEGORIES = ("random", "popular", "adversarial")
SUFFIX = "Answer the question using a single word or phrase."
"""What LLaVA, and papers with it, add to a question that lacks it, on a line of its own."""
FIELDS = ("question_id", "image", "text", "label")
WANTED = "a JSON object with question_id, image, text and label"


class QuestionsError(InputError):
    """Questions, or their pictures, that are not there or cannot be read."""


def read_pope(folder: Path) -> list[YesNoQuestion]:
    """The questions of a folder that holds POPE's `coco_pope_{random,popular,adversarial}.json`:
    a JSON object a line, with question_id, image, text and label. Raises QuestionsError."""
    if not os.path.isdir(folder):
        raise QuestionsError(f"{quoted(str(folder), 300)}: no such folder of annotations")
    paths = {category: _file(folder, category) for category in CATEGORIES}
    of = {path.name.removesuffix(f"_{category}.json") for category, path in paths.items()}
    if len(of) > 1:
        raise QuestionsError(
            f"{quoted(str(folder), 300)}: its files are of different benchmarks "
            f"({', '.join(sorted(of))})"
        )
    return [question for category in CATEGORIES for question in _read(paths[category], category)]


def require_pictures(questions: list[YesNoQuestion], folder: Path) -> None:
    """Raises QuestionsError where a picture is not there: before any model is loaded."""
    if not os.path.isdir(folder):
        raise QuestionsError(f"{quoted(str(folder), 300)}: no such folder of pictures")
    names = dict.fromkeys(question.picture for question in questions)
    missing = [name for name in names if not os.path.isfile(folder / name)]
    if missing:
        raise QuestionsError(
            f"{quoted(str(folder), 300)}: {len(missing)} of {len(names)} pictures are missing, "
            f"{quoted(missing[0])} first; give the folder that holds them (for POPE: COCO's "
            "val2014)"
        )


def _file(folder: Path, category: str) -> Path:
    found = sorted(folder.glob(f"*pope_{category}.json"))
    if len(found) != 1:
        listed = ", ".join(path.name for path in found) or "none"
        raise QuestionsError(
            f"{quoted(str(folder), 300)}: one file coco_pope_{category}.json is needed, and there "
            f"is {listed}"
        )
    return found[0]


def _read(path: Path, category: str) -> Iterator[YesNoQuestion]:
    seen = set()
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        where = f"{quoted(path.name, 80)} line {number}"
        question = _question(line, category, where)
        if question.id in seen:
            raise QuestionsError(f"{where}: question {quoted(question.id)} is there already")
        seen.add(question.id)
        yield question
    if not seen:
        raise QuestionsError(f"{quoted(str(path), 300)} holds no question")


def _lines(path: Path) -> list[str]:
    """Lines as JSON has them: what else Unicode takes for a line break may stand in a text."""
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "no UTF-8"
        raise QuestionsError(f"{quoted(str(path), 300)} cannot be read ({why})") from error


def _question(line: str, category: str, where: str) -> YesNoQuestion:
    given = _fields(line, where)
    number, image, text, label = (given[name] for name in FIELDS)
    texts = isinstance(image, str) and image and isinstance(text, str) and text.strip()
    if not texts or isinstance(number, bool) or not isinstance(number, (int, str)):
        raise QuestionsError(f"{where}: {WANTED} is needed: a number, and texts")
    if label not in ("yes", "no"):
        raise QuestionsError(f"{where}: its label is {quoted(label)}; known: yes, no")
    if not _is_text(f"{number}{image}{text}"):
        raise QuestionsError(f"{where}: half a character (a lone surrogate) stands in it")
    if "\0" in image or Path(image).is_absolute() or ".." in Path(image).parts:
        raise QuestionsError(f"{where}: its image {quoted(image)} lies in no folder of pictures")
    asked = text if text.rstrip().endswith(SUFFIX) else f"{text}\n{SUFFIX}"
    return YesNoQuestion(
        id=str(number), category=category, picture=image, prompt=asked, label=label
    )


def _fields(line: str, where: str) -> dict[str, Any]:
    try:
        given: Any = json.loads(line)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise QuestionsError(f"{where}: {WANTED} is needed, one on each line")
    if lacking := [name for name in FIELDS if name not in given]:
        raise QuestionsError(f"{where}: {WANTED} is needed, and has no {', '.join(lacking)}")
    return given


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
