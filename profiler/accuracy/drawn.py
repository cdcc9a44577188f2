"""Questions about drawn pictures that seer has never seen."""

from __future__ import annotations

from collections.abc import Sequence

from ...reports.record.accuracy import YesNoQuestion
from ..seer.pictures import Drawing
from ..seer.questions import SUFFIX, TEST, Question, sample
from .exam import Exam
from .pictures import DrawnPictures

A_PICTURE = 12
"""Questions about a picture at most, four in each category."""


def drawn_exam(most: int) -> Exam:
    """POPE's three categories about pictures of the test seeds: at most so many questions."""
    count = max(1, most // A_PICTURE)
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
