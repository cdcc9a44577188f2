"""What answers come to: the table of an evaluation, and the columns that Table 7 gets of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from .. import units
from ..analysis.accuracy.rules import RULES
from ..analysis.accuracy.scores import Score, scores
from ..analysis.accuracy.told import distinct, without_f1
from ..analysis.intervals import Estimate
from ..record.accuracy import Accuracy
from .cells import METHOD, ends
from .table import Column, RowT, Table, for_programs

SELF = "-"  # what a row has beside itself
F1_INTERVAL = (
    "In brackets the 95 % interval over pictures (percentile bootstrap, 2000 resamples, seed 0)."
)
DIFFERENCE = (
    "F1 less vanilla's, with the 95 % interval on the same resampled pictures. An interval that "
    "holds 0 tells no difference; intervals are not widened for the number of rows."
)
MCNEMAR = (
    "Smallest p of McNemar's exact test of right answers beside vanilla's, category by category "
    "(POPE asks each yes question in all three: pooled, it would count thrice), times the number "
    "of categories (Bonferroni), at most 1."
)
YES = "Share of yes among the answers; far from that of the labels the model has collapsed."
UNREADABLE = (
    "Answers in which the rule finds neither a yes nor a no. Under llava they count as yes, under "
    "words as wrong and no yes, under strict they are wrong and vanish from recall."
)


def accuracy_table(accuracy: Accuracy, rule: str) -> Table[Score]:
    """One row for each method that was asked."""
    categories = Counter(question.category for question in accuracy.questions)
    return scores_table(scores(accuracy, RULES[rule]), categories, rule)


def scores_table(listed: Sequence[Score], questions: Mapping[str, int], rule: str) -> Table[Score]:
    """The same of scores. questions: how many each category has."""
    return Table(
        [
            Column("method", lambda r: r.method, {"method": lambda r: r.method}, METHOD, "words"),
            *_f1(rule),
            *_answered(),
            *_by_category(questions),
            for_programs("rule", lambda r: rule),
            for_programs("error", lambda r: r.reason or None),
        ],
        listed,
        warnings=[why] if (why := without_f1(listed)) else [],
        notes=[f"{rule}: {RULES[rule].about}", F1_INTERVAL, DIFFERENCE, f"McNemar: {MCNEMAR}"],
        closing=distinct(listed),
        failure=lambda row: row.reason,
    )


def score_columns(of: Callable[[RowT], Score | None], rule: str) -> list[Column[RowT]]:
    """F1 and what must stand beside it, of rows that have a score or none."""
    return [_of(column, of) for column in [*_f1(rule), *_answered()]]


def _of(column: Column[Score], of: Callable[[RowT], Score | None]) -> Column[RowT]:
    """A column of scores as one of the rows that have them, or none."""

    def text(row: RowT) -> str:
        score = of(row)
        return units.NA if score is None else column.text(score)

    def taken(value: Callable[[Score], object]) -> Callable[[RowT], object]:
        def found(row: RowT) -> object:
            score = of(row)
            return None if score is None else value(score)

        return found

    values = {name: taken(value) for name, value in column.values.items()}
    return Column(
        column.heading,
        text,
        values,
        column.about,
        term=column.term,
        under=column.under,
        wide=column.wide,
    )


def _f1(rule: str) -> list[Column[Score]]:
    return [
        Column(
            f"F1\n({rule})",
            lambda s: _interval(s.f1),
            ends("f1", lambda s: s.f1),
            f"F1 of yes. {RULES[rule].about} {F1_INTERVAL}",
            term="F1",
        ),
        Column(
            "F1 less\nvanilla's",
            _difference,
            ends("f1_difference", lambda s: s.difference),
            DIFFERENCE,
            under=f"F1\n({rule})",
        ),
        Column(
            "McNemar\np",
            _p,
            {
                "mcnemar_p": lambda s: s.mcnemar,
                "mcnemar_p_by_category": lambda s: {
                    name: one.mcnemar for name, one in s.categories.items()
                },
            },
            MCNEMAR,
            wide=True,
        ),
    ]


def _answered() -> list[Column[Score]]:
    return [
        Column(
            "yes\nratio",
            lambda s: units.percent(s.yes_ratio),
            {"yes_ratio": lambda s: s.yes_ratio},
            YES,
        ),
        Column(
            "unreadable\nanswers",
            lambda s: units.NA if s.unreadable is None else f"{s.unreadable} of {s.questions}",
            {
                "unreadable": lambda s: s.unreadable,
                "questions": lambda s: s.questions or None,
            },
            UNREADABLE,
            under="yes\nratio",
        ),
    ]


def _by_category(questions: Mapping[str, int]) -> list[Column[Score]]:
    def column(name: str) -> Column[Score]:
        def f1(score: Score) -> float | None:
            one = score.categories.get(name)
            return one.f1 if one else None

        def text(score: Score) -> str:
            found = f1(score)
            return units.NA if found is None else f"{found:.3f}"

        return Column(
            f"{name}\n({questions[name]})",
            text,
            {f"f1_{name}": f1, f"questions_{name}": lambda score: questions[name]},
            f"F1 of the category {name}, and how many questions it has.",
            term=name,
        )

    return [column(name) for name in questions]


def _interval(estimate: Estimate | None) -> str:
    if estimate is None:
        return units.NA
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} {units.interval(estimate.low, estimate.high, '.3f')}"


def _difference(score: Score) -> str:
    """F1 less vanilla's; "-" for vanilla itself."""
    found = score.difference
    if score.f1 is None or found is None:
        return SELF if score.f1 and not score.unpaired else units.NA
    if found.low is None or found.high is None:
        return f"{found.value:+.3f}"
    return f"{found.value:+.3f} {units.interval(found.low, found.high, '+.3f')}"


def _p(score: Score) -> str:
    if score.f1 is None or score.mcnemar is None:
        return SELF if score.f1 and not score.unpaired else units.NA
    return "<0.001" if score.mcnemar < 0.001 else f"{score.mcnemar:.3f}"
