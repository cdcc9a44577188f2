"""Questions about drawn pictures that seer has never seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...methods import Method, format_spec
from ...reports.record.accuracy import Accuracy, YesNoQuestion
from ...reports.record.spec import OptionError
from ..seer.pictures import Drawing
from ..seer.questions import SUFFIX, TEST, Question, sample
from .exam import Exam, blank_sheet
from .pictures import DrawnPictures

if TYPE_CHECKING:
    from ..models.model import Model

A_PICTURE = 12
"""Questions about a picture at most, four in each category."""


FEWEST_PICTURES = 2
"""A question is asked of a picture that holds the thing, and of one that lacks it."""


def drawn_exam(most: int) -> Exam:
    """POPE's three categories about pictures of the test seeds: at most so many questions. Raises
    OptionError for fewer than two pictures have: one alone has none."""
    if (fewest := len(sample(TEST, FEWEST_PICTURES)[1])) > most:
        raise OptionError(
            "questions", f"{most}: about drawn pictures there are {fewest} at least, or POPE's own"
        )
    count = max(FEWEST_PICTURES, most // A_PICTURE)
    questions = sample(TEST, count)[1]
    while len(more := sample(TEST, count + 1)[1]) <= most:  # few pictures have all that they could
        count, questions = count + 1, more
    pictures = sample(TEST, count)[0]
    source = f"{count} held-out pictures drawn for seer"
    return exam_about("POPE, drawn", source, pictures, questions)


def exam_about(
    benchmark: str, source: str, pictures: Sequence[Drawing], questions: Sequence[Question]
) -> Exam:
    """Drawn pictures and questions about them, as an exam."""
    asked = [
        YesNoQuestion(
            id=str(number),
            category=question.category,
            picture=str(question.picture),
            prompt=f"{question.text}\n{SUFFIX}",
            label="yes" if question.yes else "no",
        )
        for number, question in enumerate(questions)
    ]
    return Exam(benchmark, source, asked, DrawnPictures(lambda name: pictures[int(name)].image))


def asked_of(model: Model, exam: Exam, methods: Sequence[Method]) -> Accuracy:
    """What a model answers to all questions of an exam under each method, in this process."""
    from .asking import Examinee
    from .evaluation import evaluate

    sheet = blank_sheet(exam, [format_spec(method) for method in methods], "rows")
    examinee = Examinee(
        model,
        exam.questions,
        exam.pictures,
        new_tokens=sheet.new_tokens,
        batch_size=sheet.batch_size,
    )
    evaluate(examinee, methods, _InMemory(sheet), lambda label, done, total: None)
    return sheet


class _InMemory:
    """The answers of an evaluation that nobody goes on with."""

    def __init__(self, accuracy: Accuracy) -> None:
        self.rows = accuracy.answers
        for row in self.rows:
            row.texts = [None] * len(accuracy.questions)

    def known(self, row: int) -> set[int]:
        return set()

    def keep(self, row: int, places: Sequence[int], texts: Sequence[str]) -> None:
        for place, text in zip(places, texts, strict=True):
            self.rows[row].texts[place] = text

    def fail(self, row: int, error: str) -> None:
        self.rows[row].error = error
