"""An exam: questions, and where their pictures are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ...methods.contract.errors import InputError
from ...reports.record.accuracy import Accuracy, Answers, YesNoQuestion
from ...reports.record.spec import AccuracySpec
from .. import seer
from ..prompts import WorkloadError
from .pictures import FolderPictures, Pictures
from .pope import read_pope, require_pictures

if TYPE_CHECKING:
    from ..models.model import Model

Progress = Callable[[str, int, int], None]
"""Told what goes on, how much is done, and of how much."""
SEER = "seer"
"""The model that questions are drawn for."""
DRAWN = 300
"""Questions of drawn pictures, where no other number is asked for: about ten seconds a row."""

NEW_TOKENS, BATCH_SIZE = 16, 16
"""Of an answer at most, and questions at once at most, where nothing else is asked for."""


@dataclass(frozen=True)
class Exam:
    """benchmark, source: as the record has them. pictures: by the names in the questions."""

    benchmark: str
    source: str
    questions: list[YesNoQuestion]
    pictures: Pictures

    @property
    def digest(self) -> str:
        """Of all questions with their labels, not of the pictures."""
        return hashlib.sha256(msgspec.json.encode(self.questions)).hexdigest()

    def digest_of_pictures(self) -> str | None:
        """Of their files, all of which are read; None where they are drawn, or not there."""
        return self.pictures.digest(dict.fromkeys(one.picture for one in self.questions))


def set_exam(spec: AccuracySpec, model: str | None, *, pictures: bool = True) -> Exam:
    """What is asked of a model, before it is loaded.

    model: its name; None for seer. pictures: whether they are needed; where everything is answered
    already they may be missing. Raises InputError for what is not there.
    """
    if spec.annotations is not None and spec.images is not None:
        annotations, images = Path(spec.annotations), Path(spec.images)
        questions = first_of_each(read_pope(annotations), spec.questions)
        if pictures:
            require_pictures(questions, images)
        return Exam("POPE", f"annotations {annotations}", questions, FolderPictures(images))
    if model not in (None, SEER):
        raise InputError(
            f"{model}: its accuracy needs questions: give --annotations (a folder with POPE's "
            f"coco_pope_*.json) and --images; only the model {SEER} has questions of its own"
        )
    from .drawn import drawn_exam

    return drawn_exam(spec.questions or DRAWN)


def require_seer() -> None:
    """Raises InputError where the weights of the model that sees are not installed."""
    if not (Path(seer.__file__).parent / "checkpoint" / "config.json").is_file():
        raise InputError(
            f"--accuracy: the weights of {SEER}, the default here, are not part of this version: "
            "name a checkpoint (--model) and POPE's questions (--annotations, --images)"
        )


def require_companions(model: Model) -> None:
    """Raises WorkloadError for a model without what questions need."""
    if model.tokenizer is None and not model.missing:
        raise WorkloadError(
            f"{model.name} has random weights and no tokenizer: it answers nothing; give a "
            "checkpoint"
        )
    for what in ("tokenizer", "image processor"):
        if what in model.missing:
            raise WorkloadError(f"{model.name}: no readable {what} ({model.missing[what]})")


def blank_sheet(
    exam: Exam,
    methods: Sequence[str],
    attention: str,
    *,
    new_tokens: int = NEW_TOKENS,
    batch_size: int = BATCH_SIZE,
) -> Accuracy:
    """The evaluation before anything is answered."""
    return Accuracy(
        benchmark=exam.benchmark,
        source=exam.source,
        attention=attention,
        new_tokens=new_tokens,
        batch_size=batch_size,
        questions=exam.questions,
        answers=[Answers(method=method) for method in methods],
    )


def first_of_each(questions: Sequence[YesNoQuestion], most: int | None) -> list[YesNoQuestion]:
    """The first questions of each category, `most` of all together; None for all."""
    listed = list(questions)
    if most is None:
        return listed
    each = most // len({question.category for question in listed})
    taken: dict[str, int] = {}
    found = []
    for question in listed:
        taken[question.category] = taken.get(question.category, 0) + 1
        if taken[question.category] <= each:
            found.append(question)
    return found
