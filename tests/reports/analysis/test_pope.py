"""POPE by the three rules: frozen figures of the rules' own programs, intervals and pairs."""

from __future__ import annotations

import pytest
from record_builders import record

from tpprof.reports.analysis.accuracy.rules import (
    RULES,
    read_as_llava,
    read_strictly,
    read_words,
)
from tpprof.reports.analysis.accuracy.scores import CATEGORIES, Score, mcnemar, reasons, scores
from tpprof.reports.analysis.accuracy.told import distinct
from tpprof.reports.record.accuracy import Accuracy, Answers, YesNoQuestion
from tpprof.reports.record.spec import RunSpec
from tpprof.reports.text.accuracy import accuracy_table

LABELS = ["yes", "yes", "no", "no"] * 3
ANSWERS = {
    "bare": ["Yes", "No", "No", "Yes", "Yes", "Yes", "No", "No", "No", "Yes", "Yes", "No"],
    "drifting": [
        "Yes, there is a dog.",
        "Yes. It is not large.",
        "No, there is not",
        "There is no dog in it. Yes",
        "yes",
        "Yes,it is",
        "There is not a dog.",
        "No dog, no cat",
        "The dog is not there. Yes.",
        "A dog",
        "I see no dog, and yes, a cat",
        "no",
    ],
    "garbled": [
        *("the the the", ".....", "", "yesyes no no", "Yes Yes Yes", "ASSISTANT:"),
        *("\n\n", "NO", "nO dog", "Y", "dog dog", "<s>"),
    ],
    "all yes": ["Yes"] * 12,
}
FROZEN = {
    "bare": {"llava": (0.666667, 6, 8), "strict": (0.666667, 6, 8), "words": (0.666667, 6, 8)},
    "drifting": {"llava": (0.888889, 5, 11), "strict": (1.0, 1, 2), "words": (0.909091, 5, 8)},
    "garbled": {"llava": (0.711111, 11, 7), "strict": (0.0, 0, 1), "words": (0.285714, 1, 3)},
    "all yes": {
        "llava": (0.666667, 12, 6),
        "strict": (0.666667, 12, 6),
        "words": (0.666667, 12, 6),
    },
}
"""F1, answers taken for yes, and right ones, of 12 answers, as the programs of LLaVA (eval_pope),
lmms-eval (its task pope) and VLMEvalKit (YOrN_Extraction, POPE_rating) give them."""
UNREADABLE = {  # by us: LLaVA's program calls nothing so
    "bare": {"llava": 0, "strict": 0, "words": 0},
    "drifting": {"llava": 1, "strict": 10, "words": 4},
    "garbled": {"llava": 10, "strict": 11, "words": 8},
    "all yes": {"llava": 0, "strict": 0, "words": 0},
}


def asked(pictures: int = 12) -> list[YesNoQuestion]:
    """Four questions in each category, two of them yes."""
    return [
        YesNoQuestion(
            id=str(number),
            category=CATEGORIES[number // 4],
            picture=f"{number % pictures}.jpg",
            prompt="Is there a dog?",
            label="yes" if label == "yes" else "no",
        )
        for number, label in enumerate(LABELS)
    ]


def evaluation(questions: list[YesNoQuestion], **answers: list[str] | list[str | None]) -> Accuracy:
    return Accuracy(
        benchmark="POPE",
        source="made up",
        attention="rows",
        new_tokens=16,
        batch_size=1,
        questions=questions,
        answers=[Answers(method=name, texts=list(texts)) for name, texts in answers.items()],
    )


def score(name: str, rule: str) -> Score:
    (found,) = scores(evaluation(asked(), vanilla=ANSWERS[name]), RULES[rule])
    return found


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ANSWERS)
def test_a_rule_gives_what_its_own_program_gives(name: str, rule: str) -> None:
    f1, yes, right = FROZEN[name][rule]
    found = score(name, rule)
    assert found.f1 is not None
    assert found.f1.value == pytest.approx(f1, abs=1e-6)
    assert found.yes_ratio == pytest.approx(yes / 12)
    assert found.accuracy == pytest.approx(right / 12)
    assert found.unreadable == UNREADABLE[name][rule]


@pytest.mark.parametrize(
    ("text", "llava", "strict", "words"),
    [
        ("Yes", "yes", "yes", "yes"),
        (" no ", "no", "no", "no"),
        ("Yes.", "yes", None, "yes"),
        ("No, there is not", "no", None, "no"),
        ("There is not", "no", None, None),
        ("Yes. No.", "yes", None, None),
        ("no\nthere", None, None, "no"),  # LLaVA divides words by spaces alone
        ("NO", None, "no", "no"),
        ("yes,no, ok", "yes", None, None),
        ("yes,indeed", "yes", None, "yes"),
        ("1,000 (yes)", "yes", None, "yes"),
        ("1,000,yes", "yes", None, None),
        ("yes.no", "yes", None, None),
        ("yesterday", None, None, None),
        ("", None, None, None),
    ],
)
def test_how_an_answer_is_read(
    text: str, llava: str | None, strict: str | None, words: str | None
) -> None:
    assert (read_as_llava(text), read_strictly(text), read_words(text)) == (llava, strict, words)


def test_intervals_are_seeded_and_hold_the_figure() -> None:
    first, again = score("bare", "llava"), score("bare", "llava")
    assert first == again
    assert first.f1 is not None
    assert first.f1.low is not None
    assert first.f1.high is not None
    assert first.f1.low < first.f1.value < first.f1.high
    assert first.f1.samples == 12


def test_pictures_are_resampled_and_not_questions() -> None:
    """All questions about one picture, twice: twice as many questions tell nothing new."""
    once = evaluation(asked(), vanilla=ANSWERS["bare"])
    twice = evaluation([*asked(), *asked()], vanilla=ANSWERS["bare"] * 2)
    assert scores(once, RULES["llava"])[0].f1 == scores(twice, RULES["llava"])[0].f1


def test_too_few_pictures_give_no_interval() -> None:
    (found,) = scores(evaluation(asked(5), vanilla=ANSWERS["bare"]), RULES["llava"])
    assert found.f1 is not None
    assert (found.f1.low, found.f1.high) == (None, None)


def test_a_difference_is_taken_on_the_same_pictures() -> None:
    same = evaluation(asked(), vanilla=ANSWERS["bare"], fastv=ANSWERS["bare"])
    vanilla, fastv = scores(same, RULES["llava"])
    assert vanilla.difference is None
    assert fastv.difference is not None
    assert (fastv.difference.value, fastv.difference.low, fastv.difference.high) == (0, 0, 0)


def test_pairs_are_counted_in_each_category() -> None:
    perfect = [label.capitalize() for label in LABELS]
    wrong = ["No", *perfect[1:4], *["Yes"] * 8]
    vanilla, method = scores(evaluation(asked(), vanilla=perfect, random=wrong), RULES["llava"])
    assert [one.worse for one in method.categories.values()] == [1, 2, 2]
    assert [one.better for one in method.categories.values()] == [0, 0, 0]
    assert [one.mcnemar for one in method.categories.values()] == [1.0, 0.5, 0.5]
    assert all(one.mcnemar is None for one in vanilla.categories.values())


def test_mcnemar_is_the_binomial_test() -> None:
    stats = pytest.importorskip("scipy.stats")
    for worse, better in ((14, 21), (0, 7), (3, 3), (900, 801)):
        exact = stats.binomtest(worse, worse + better).pvalue
        assert mcnemar(worse, better) == pytest.approx(exact)
    assert mcnemar(0, 0) == 1.0


def test_a_row_without_all_answers_has_no_score_but_a_reason() -> None:
    given = evaluation(asked(), vanilla=ANSWERS["bare"], fastv=["Yes", *[None] * 11])
    given.answers.append(Answers(method="random", error="no room"))
    vanilla, partial, failed = scores(given, RULES["llava"])
    assert vanilla.f1 is not None
    assert partial.f1 is failed.f1 is partial.unreadable is None
    assert partial.reason == "1 of 12 answered"
    assert failed.reason == "failed: no room"


def test_without_a_yes_label_there_is_no_f1() -> None:
    questions = [q for q in asked() if q.label == "no"]
    (found,) = scores(evaluation(questions, vanilla=["No"] * 6), RULES["llava"])
    assert found.f1 is None
    assert found.accuracy == 1.0


def test_why_there_is_no_f1_is_said() -> None:
    """One category without a yes: no mean of three, but a figure over all questions."""
    questions = [q for q in asked() if q.label == "no" or q.category != "popular"]
    given = evaluation(questions, vanilla=["No"] * len(questions))
    why = "no F1: no right answer of popular is yes."
    assert accuracy_table(given, "llava").warnings == [why]
    assert accuracy_table(given, "strict").warnings == []
    for rule, told in (("llava", [why]), ("strict", [])):
        asked_of = record()
        asked_of.accuracy = given
        asked_of.spec = RunSpec.of(methods=["fastv"], accuracy=True, rule=rule)
        assert reasons(asked_of) == told


def test_beside_a_vanilla_that_failed_nothing_is_called_the_base() -> None:
    given = evaluation(asked(), vanilla=[], fastv=ANSWERS["bare"])
    given.answers[0].error = "no room"
    table = accuracy_table(given, "llava")
    at = [column.heading for column in table.visible()].index("F1 less\nvanilla's")
    assert [line[at] for line in table.lines()] == ["", "n/a"]
    base = accuracy_table(evaluation(asked(), vanilla=ANSWERS["bare"]), "llava")
    assert [line[at] for line in base.lines()] == ["-"]


def test_where_vanilla_has_collapsed_nothing_is_compared() -> None:
    given = evaluation(asked(), vanilla=["No"] * 12, fastv=ANSWERS["all yes"])
    assert distinct(scores(given, RULES["llava"])) == (
        "vanilla answers yes to 0% of all: it does not see, and F1 tells nothing."
    )
    sees = evaluation(asked(), vanilla=[label.capitalize() for label in LABELS], fastv=["No"] * 12)
    assert distinct(scores(sees, RULES["llava"])).startswith("F1 below vanilla's: fastv (")
