"""The figure of answers against the clock."""

from __future__ import annotations

from record_builders import cell, record

from tpprof.reports.analysis.run_view import RunView
from tpprof.reports.analysis.summary import front
from tpprof.reports.figures import accuracy
from tpprof.reports.figures.canvas import style
from tpprof.reports.record.accuracy import Accuracy, Answers, YesNoQuestion
from tpprof.reports.record.schema import Record


def answered(**texts: list[str]) -> Record:
    """Vanilla and two methods, timed and asked eight questions about eight pictures."""
    questions = [
        YesNoQuestion(
            id=str(number),
            category="random",
            picture=str(number),
            prompt="?",
            label="no" if number % 2 else "yes",
        )
        for number in range(8)
    ]
    found = record(
        cell("vanilla", "rows", 2.0, 1000),
        cell("fastv", "rows", 1.0, 500),
        cell("random", "rows", 0.8, 400),
    )
    found.accuracy = Accuracy(
        benchmark="POPE",
        source="made up",
        attention="rows",
        new_tokens=4,
        batch_size=2,
        questions=questions,
        answers=[Answers(method=name, texts=list(given)) for name, given in texts.items()],
    )
    return found


YES_NO = ["Yes", "No"] * 4


def test_each_row_that_is_timed_and_answered_is_a_point_with_what_it_is() -> None:
    made = answered(vanilla=YES_NO, fastv=["Yes"] * 8, random=["No", *YES_NO[1:]])
    with style():
        chart = accuracy.chart(RunView(made))
    assert chart is not None
    tips = list(chart.tips.values())
    assert len(tips) == 3
    assert tips[0].endswith("F1 1.000 (1.000 to 1.000)")
    assert "fastv" in tips[1]
    assert "2.00x" in tips[1]
    assert "F1 0.667 (" in tips[1]


def test_without_answers_there_is_no_figure() -> None:
    made = answered(vanilla=YES_NO, fastv=["Yes"] * 8, random=["No"] * 8)
    made.accuracy = None
    assert accuracy.chart(RunView(made)) is None
    unanswered = answered(vanilla=YES_NO)
    assert accuracy.chart(RunView(unanswered)) is None


def test_the_line_holds_what_no_other_beats_in_both() -> None:
    points = [(1.0, 0.9), (2.0, 0.8), (1.5, 0.7), (3.0, 0.6), (3.0, 0.5), (1.0, 0.9)]
    assert [points[n] for n in front(points)] == [(3.0, 0.6), (2.0, 0.8), (1.0, 0.9), (1.0, 0.9)]
