"""The questions that seer is asked where nobody gives others."""

from __future__ import annotations

from collections import Counter

import numpy
import pytest

from tpprof.profiler.accuracy.drawn import drawn_exam, exam_about
from tpprof.profiler.accuracy.exam import set_exam
from tpprof.profiler.seer.questions import TEST, sample
from tpprof.reports.record.spec import AccuracySpec, OptionError


def test_as_many_yes_as_no_in_each_of_popes_categories() -> None:
    exam = drawn_exam(120)
    assert 100 < len(exam.questions) <= 120
    counts = Counter((question.category, question.label) for question in exam.questions)
    assert {category for category, _ in counts} == {"random", "popular", "adversarial"}
    for category in ("random", "popular", "adversarial"):
        assert counts[category, "yes"] == counts[category, "no"] > 0
    assert drawn_exam(120).digest == exam.digest, "the same ones each time"
    assert drawn_exam(60).digest != exam.digest


def test_fewer_than_two_pictures_have_are_refused() -> None:
    assert len(drawn_exam(16).questions) == 16
    with pytest.raises(OptionError, match="questions 15: about drawn pictures there are 16"):
        drawn_exam(15)


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
