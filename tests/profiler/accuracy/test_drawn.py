"""The questions that seer is asked where nobody gives others."""

from __future__ import annotations

from collections import Counter

import numpy
import pytest

from tpprof.profiler.accuracy.drawn import drawn_exam, exam_about
from tpprof.profiler.accuracy.exam import set_exam
from tpprof.profiler.seer.model import FOLDER
from tpprof.profiler.seer.questions import TEST, sample
from tpprof.reports.record.spec import AccuracySpec


def test_as_many_yes_as_no_in_each_of_popes_categories() -> None:
    exam = drawn_exam(120)
    assert 100 < len(exam.questions) <= 120
    counts = Counter((question.category, question.label) for question in exam.questions)
    assert {category for category, _ in counts} == {"random", "popular", "adversarial"}
    for category in ("random", "popular", "adversarial"):
        assert counts[category, "yes"] == counts[category, "no"] > 0
    assert drawn_exam(120).digest == exam.digest, "the same ones each time"
    assert drawn_exam(60).digest != exam.digest


def test_a_question_is_asked_of_the_picture_that_it_was_made_for() -> None:
    pictures, questions = sample(TEST, 6)
    exam = exam_about("POPE, drawn", "made up", pictures, questions)
    for asked, question in zip(exam.questions, questions, strict=True):
        shown = numpy.asarray(exam.pictures.image(asked.picture))
        assert (shown == pictures[question.picture].pixels).all()
        assert asked.prompt.startswith(question.text)
        assert asked.label == ("yes" if question.yes else "no")
    assert exam.pictures.size("0") == (96, 96)


def test_seer_is_asked_them_by_default() -> None:
    asked = AccuracySpec(accuracy=True, questions=60)
    assert set_exam(asked, None).digest == set_exam(asked, "seer").digest == drawn_exam(60).digest


@pytest.mark.skipif(not FOLDER.is_dir(), reason="seer's weights are not here")
def test_seer_sees_what_is_asked_of_it() -> None:
    """A few questions through the whole of it; all of them are asked by the model's own tests."""
    from tpprof.methods import parse
    from tpprof.profiler.accuracy.asking import Examinee
    from tpprof.profiler.models.load import load

    exam = drawn_exam(60)
    examinee = Examinee(
        load("seer", device="cpu"), exam.questions, exam.pictures, new_tokens=4, batch_size=16
    )
    right = 0
    for spec in ("vanilla", "fastv-reverse:keep=16"):
        batches = examinee.batches(parse(spec))
        answered = zip(batches, examinee.answers(parse(spec), batches), strict=True)
        said = {
            place: text
            for batch, texts in answered
            for place, text in zip(batch.places, texts, strict=True)
        }
        assert set(said.values()) <= {"Yes", "No"}
        before, right = (
            right,
            sum(text.lower() == exam.questions[place].label for place, text in said.items()),
        )
        assert spec != "vanilla" or right > 0.85 * len(exam.questions)
        assert spec == "vanilla" or right < before
