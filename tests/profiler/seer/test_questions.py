"""Questions are true, balanced, and tell nothing by their words."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from tpprof.profiler.seer.pictures import COLOURS, POPULAR, SHAPES, SIDE, Drawing, Thing, picture
from tpprof.profiler.seer.questions import (
    MORE,
    POPE,
    TEST,
    TRAIN,
    VALIDATION,
    Question,
    halves,
    more,
    sample,
)

KIND = re.compile(rf"({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})")
Sample = tuple[list[Drawing], list[Question]]


@pytest.fixture(scope="module")
def asked() -> Sample:
    return sample(TEST, 60)


def named(question: Question) -> list[tuple[str, str]]:
    return [(colour, shape) for colour, shape in KIND.findall(question.text)]


def test_the_same_sample_again(asked: Sample) -> None:
    assert sample(TEST, 60)[1] == asked[1]
    assert sample(VALIDATION, 60)[1] != asked[1]


def test_yes_is_said_of_what_is_there(asked: Sample) -> None:
    pictures, questions = asked
    for question in questions:
        (kind,) = named(question)
        assert (kind in pictures[question.picture].kinds) == question.yes


def test_absent_objects_are_as_their_category_says(asked: Sample) -> None:
    pictures, questions = asked
    for question in questions:
        ((colour, shape),) = named(question)
        if question.category == "popular":
            assert (colour, shape) in POPULAR
        if question.category == "adversarial" and not question.yes:
            there = pictures[question.picture].things
            assert colour in {thing.colour for thing in there}
            assert shape in {thing.shape for thing in there}


@pytest.mark.parametrize("category", POPE)
def test_each_text_is_asked_with_yes_and_with_no(asked: Sample, category: str) -> None:
    own = [question for question in asked[1] if question.category == category]
    assert len(own) > 120
    assert Counter(q.text for q in own if q.yes) == Counter(q.text for q in own if not q.yes)


def test_no_picture_is_asked_more_than_four_questions_of_a_category(asked: Sample) -> None:
    assert max(Counter((q.picture, q.category) for q in asked[1]).values()) <= 4


def test_where_an_object_is() -> None:
    pictures, questions = more(TEST, "where", 30)
    for question in questions:
        thing = one_of(pictures, question, named(question)[0])
        vertical = "top" if thing.y < SIDE / 2 else "bottom"
        place = f"{vertical} {'left' if thing.x < SIDE / 2 else 'right'}"
        assert (f" {place} of the image" in question.text) == question.yes


def test_in_which_half_an_object_is() -> None:
    rng, found = np.random.default_rng(0), set[str]()
    for index in range(20):
        shown = picture((TEST, 0, index))
        for question in halves(0, shown, rng, 4):
            thing = one_of([shown], question, named(question)[0])
            place = {"top" if thing.y < SIDE / 2 else "bottom"}
            place.add("left" if thing.x < SIDE / 2 else "right")
            said = question.text.split(" in the ")[1].removesuffix(" of the image?")
            assert (said in place) == question.yes
            found.add(said)
    assert found == {"top", "bottom", "left", "right"}


def test_which_picture_holds_an_object() -> None:
    pictures, questions = more(TEST, "which", 30)
    for question in questions:
        anchor, target = (one_of(pictures, question, kind) for kind in named(question))
        assert (anchor.panel == target.panel) == question.yes


def test_what_an_object_looks_like() -> None:
    pictures, questions = more(TEST, "attributes", 30)
    for question in questions:
        thing = one_of(pictures, question, named(question)[0])
        assert (f" {thing.size} and {thing.texture}?" in question.text) == question.yes


@pytest.mark.parametrize("category", MORE)
def test_as_many_answers_are_yes_as_no(category: str) -> None:
    _, questions = more(TEST, category, 30)
    assert len(questions) > 60
    assert sum(question.yes for question in questions) * 2 == len(questions)


def one_of(pictures: Sequence[Drawing], question: Question, kind: tuple[str, str]) -> Thing:
    (found,) = [t for t in pictures[question.picture].things if t.kind == kind]
    return found


def blind(learnt: Sequence[Question]) -> Callable[[str], bool]:
    """Who never sees a picture, and has counted how often each question, word and pair of words
    stood before a yes and before a no."""
    counts = {yes: Counter[str]() for yes in (True, False)}
    for question in learnt:
        counts[question.yes].update(features(question.text))

    def answer(text: str) -> bool:
        odds = (
            math.log((counts[True][word] + 1) / (counts[False][word] + 1))
            for word in features(text)
        )
        return sum(odds) > 0

    return answer


def features(text: str) -> list[str]:
    words = text.split()
    return [text, *words, *(" ".join(pair) for pair in itertools.pairwise(words))]


def right(answer: Callable[[str], bool], questions: Sequence[Question]) -> float:
    return sum(answer(q.text) == q.yes for q in questions) / len(questions)


@pytest.mark.parametrize("category", POPE)
def test_who_sees_nothing_is_right_by_chance(asked: Sample, category: str) -> None:
    """Exactly half of the time, whatever was learnt: each text has both answers."""
    learnt = [question for question in sample(TRAIN, 150)[1] if question.category == category]
    own = [question for question in asked[1] if question.category == category]
    assert right(blind(learnt), own) == 0.5
    assert right(blind(own), own) == 0.5


@pytest.mark.parametrize("category", MORE)
def test_who_sees_nothing_is_right_by_chance_elsewhere(category: str) -> None:
    answer = blind(more(TRAIN, category, 150)[1])
    _, own = more(TEST, category, 150)
    assert abs(right(answer, own) - 0.5) < 3 * 0.5 / math.sqrt(len(own))


def test_the_blind_would_find_what_is_unbalanced(asked: Sample) -> None:
    """Popular kinds where the answer is no, and others where it is yes."""
    learnt, tried = (
        [q for q in questions if (named(q)[0] in POPULAR) != q.yes]
        for questions in (sample(TRAIN, 150)[1], asked[1])
    )
    assert right(blind(learnt), tried) > 0.8
