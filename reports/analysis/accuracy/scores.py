"""POPE from saved answers: F1 by a rule, its interval, and how it differs from vanilla's.

Nothing here is stored: answers are, and any rule can be applied to them again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...record.accuracy import Accuracy, Answers, YesNoQuestion
from ...record.schema import Record
from ..intervals import CONFIDENCE, FEWEST, Estimate
from .rules import RULES, Rule

if TYPE_CHECKING:
    import numpy

CATEGORIES = ("random", "popular", "adversarial")
"""How absent objects were chosen, from easy to hard."""
RESAMPLES, SEED = 2000, 0
"""Of the bootstrap over pictures."""


@dataclass(frozen=True)
class CategoryScore:
    """One category. f1, accuracy, yes_ratio: shares, the first None without a yes among the labels.
    worse, better: questions that vanilla alone, or the method alone, answers rightly; None of
    vanilla itself."""

    questions: int
    f1: float | None
    accuracy: float
    yes_ratio: float
    unreadable: int
    worse: int | None = None
    better: int | None = None

    @property
    def mcnemar(self) -> float | None:
        """Two-sided p of vanilla and the method answering equally well; None of vanilla."""
        if self.worse is None or self.better is None:
            return None
        return mcnemar(self.worse, self.better)


@dataclass(frozen=True)
class Score:
    """A row. f1: with its interval over pictures. difference: F1 less vanilla's, or another row's,
    on the same resampled pictures; None of that row, and where that row has no score: then
    it is `unpaired`. reason: why nothing is known of it, or ""."""

    method: str
    categories: Mapping[str, CategoryScore]
    f1: Estimate | None = None
    difference: Estimate | None = None
    reason: str = ""
    unpaired: bool = False

    @property
    def questions(self) -> int:
        return sum(one.questions for one in self.categories.values())

    @property
    def yes_ratio(self) -> float | None:
        """Share of yes among the answers, not among the labels."""
        return self._mean(lambda one: one.yes_ratio)

    @property
    def accuracy(self) -> float | None:
        return self._mean(lambda one: one.accuracy)

    @property
    def unreadable(self) -> int | None:
        return sum(one.unreadable for one in self.categories.values()) if self.questions else None

    @property
    def mcnemar(self) -> float | None:
        """The smallest p of the categories, times their number (Bonferroni); None of vanilla."""
        found = [one.mcnemar for one in self.categories.values() if one.mcnemar is not None]
        return min(1.0, min(found) * len(found)) if found else None

    def _mean(self, share: Callable[[CategoryScore], float]) -> float | None:
        if not self.questions:
            return None
        weighed = (share(one) * one.questions for one in self.categories.values())
        return sum(weighed) / self.questions


def scores(accuracy: Accuracy, rule: Rule, beside: str = "vanilla") -> list[Score]:
    """A score for each row, in the order of the rows. beside: what others are compared with.

    Intervals: 95 %, percentile bootstrap over pictures (2000 resamples, seed 0): the questions
    about one picture are no independent ones. None from fewer than six pictures.
    """
    rows = accuracy.answers
    marked = {row.method: _marks(accuracy.questions, row, rule) for row in rows}
    names = _categories(accuracy.questions)
    spread = _Spread(accuracy.questions, names, rule) if any(marked.values()) else None
    found = []
    for row in rows:
        marks, base = marked[row.method], marked.get(beside)
        if marks is None or spread is None:
            found.append(Score(row.method, {}, reason=_reason(row, accuracy.questions)))
            continue
        other = base if row.method != beside else None
        found.append(
            Score(
                row.method,
                {name: _category(accuracy.questions, name, marks, other) for name in names},
                f1=spread.f1(marks),
                difference=spread.difference(marks, other) if other else None,
                unpaired=row.method != beside and other is None,
            )
        )
    return found


def of_record(record: Record) -> dict[str, Score]:
    """The score of each method that was asked, by the rule of the record's specification; none
    where nothing was asked."""
    if record.accuracy is None:
        return {}
    listed = scores(record.accuracy, RULES[record.spec.accuracy.rule])
    return {score.method: score for score in listed}


def reasons(record: Record) -> list[str]:
    """A line for each method that was asked and has no score, and for questions that give none."""
    if record.accuracy is None:
        return []
    rows = [
        (row.method, _reason(row, record.accuracy.questions)) for row in record.accuracy.answers
    ]
    told = [f"no F1 of {method}: {why.rstrip('.')}." for method, why in rows if why]
    asked = record.accuracy.questions
    with_yes = {question.category for question in asked if question.label == "yes"}
    lacking = [name for name in _categories(asked) if name not in with_yes]
    if lacking and not (RULES[record.spec.accuracy.rule].pooled and with_yes):
        told.append(no_yes(lacking))
    return told


def no_yes(categories: Sequence[str]) -> str:
    """Why there is no F1 where no label of these categories is a yes."""
    return f"no F1: no right answer of {' and '.join(categories)} is yes."


def mcnemar(worse: int, better: int) -> float:
    """The exact two-sided p of McNemar's test (binomial) for discordant pairs of either kind."""
    count, fewer = worse + better, min(worse, better)
    tail = sum(math.comb(count, index) for index in range(fewer + 1))
    return min(1.0, float(2 * tail / 2**count))


@dataclass(frozen=True)
class _Mark:
    """An answer under a rule. yes: it counts as a yes. counts: it counts in F1 at all."""

    yes: bool
    counts: bool
    right: bool
    readable: bool


def _marks(questions: Sequence[YesNoQuestion], row: Answers, rule: Rule) -> list[_Mark] | None:
    """What each answer of a row is; None for a row that has not all of them."""
    if _reason(row, questions):
        return None
    return [_mark(q.label, text or "", rule) for q, text in zip(questions, row.texts, strict=True)]


def _mark(label: str, text: str, rule: Rule) -> _Mark:
    said = rule.read(text)
    taken = said or rule.unreadable
    right = said == label or (said is None and rule.unreadable == label == "yes")
    return _Mark(taken == "yes", taken is not None, right, said is not None)


def _reason(row: Answers, questions: Sequence[YesNoQuestion]) -> str:
    if row.error:
        return f"failed: {row.error}"
    answered = sum(text is not None for text in row.texts)
    return "" if answered == len(questions) else f"{answered} of {len(questions)} answered"


def _categories(questions: Sequence[YesNoQuestion]) -> list[str]:
    there = dict.fromkeys(question.category for question in questions)
    known = [name for name in CATEGORIES if name in there]
    return known + [name for name in there if name not in known]


def _category(
    questions: Sequence[YesNoQuestion], name: str, marks: list[_Mark], beside: list[_Mark] | None
) -> CategoryScore:
    places = [place for place, one in enumerate(questions) if one.category == name]
    own = [marks[place] for place in places]
    worse = better = None
    if beside is not None:
        pairs = [(beside[place].right, marks[place].right) for place in places]
        worse, better = pairs.count((True, False)), pairs.count((False, True))
    counts = [0, 0, 0, 0]
    for place in places:
        for index in _counted(questions[place].label, marks[place]):
            counts[index] += 1
    return CategoryScore(
        questions=len(own),
        f1=_f1(*counts),
        accuracy=sum(mark.right for mark in own) / len(own),
        yes_ratio=sum(mark.yes for mark in own) / len(own),
        unreadable=sum(not mark.readable for mark in own),
        worse=worse,
        better=better,
    )


YES_LABELS, HIT, FALSE_YES, FALSE_NO = range(4)


def _counted(label: str, mark: _Mark) -> list[int]:
    """Which of the four counts behind F1 an answer adds to."""
    if label == "no":
        return [FALSE_YES] if mark.yes else []
    if not mark.counts:
        return [YES_LABELS]
    return [YES_LABELS, HIT if mark.yes else FALSE_NO]


def _f1(yes_labels: int, hits: int, false_yes: int, false_no: int) -> float | None:
    """2 TP / (2 TP + FP + FN); 0 without a hit, None without a yes among the labels."""
    if not yes_labels:
        return None
    return 2 * hits / (2 * hits + false_yes + false_no) if hits else 0.0


class _Spread:
    """How F1 scatters over resampled pictures: the same ones for every row."""

    def __init__(
        self, questions: Sequence[YesNoQuestion], names: Sequence[str], rule: Rule
    ) -> None:
        import numpy

        pictures = {name: place for place, name in enumerate(_pictures(questions))}
        self.cells = [(pictures[q.picture], names.index(q.category), q.label) for q in questions]
        self.shape = (len(pictures), len(names), 4)
        self.pooled = rule.pooled
        generator, count = numpy.random.default_rng(SEED), len(pictures)
        drawn = generator.multinomial(count, [1 / count] * count, size=RESAMPLES)
        whole = numpy.ones((1, count), dtype=drawn.dtype)
        self.weights = numpy.concatenate([whole, drawn]).astype(float)  # the first: as it was asked

    def f1(self, marks: Sequence[_Mark]) -> Estimate | None:
        return self._estimate(self._drawn(marks))

    def difference(self, marks: Sequence[_Mark], vanilla: Sequence[_Mark]) -> Estimate | None:
        return self._estimate(self._drawn(marks) - self._drawn(vanilla))

    def _drawn(self, marks: Sequence[_Mark]) -> numpy.ndarray[Any, Any]:
        """F1 of the pictures as they are, then of each resample; NaN where there is none."""
        import numpy

        counts = numpy.zeros(self.shape)
        for (picture, category, label), mark in zip(self.cells, marks, strict=True):
            for index in _counted(label, mark):
                counts[picture, category, index] += 1
        summed = (self.weights @ counts.reshape(len(counts), -1)).reshape(-1, *self.shape[1:])
        if self.pooled:
            summed = summed.sum(1, keepdims=True)
        yes_labels, hits, false_yes, false_no = numpy.moveaxis(summed, -1, 0)
        with numpy.errstate(invalid="ignore"):
            f1 = numpy.where(hits > 0, 2 * hits / (2 * hits + false_yes + false_no), 0.0)
        shares: numpy.ndarray[Any, Any] = numpy.where(yes_labels > 0, f1, numpy.nan).mean(1)
        return shares

    def _estimate(self, drawn: numpy.ndarray[Any, Any]) -> Estimate | None:
        import numpy

        if numpy.isnan(drawn[0]):
            return None
        pictures = self.shape[0]
        if pictures < FEWEST:
            return Estimate(float(drawn[0]), None, None, pictures)
        tail = (1 - CONFIDENCE) / 2
        low, high = numpy.nanquantile(drawn[1:], [tail, 1 - tail])
        return Estimate(float(drawn[0]), float(low), float(high), pictures)


def _pictures(questions: Sequence[YesNoQuestion]) -> list[str]:
    return list(dict.fromkeys(question.picture for question in questions))
