"""Answers in the journal and in the record of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from record_builders import cell, record

from tpprof.reports.record import files
from tpprof.reports.record.accuracy import Accuracy, Answers, YesNoQuestion
from tpprof.reports.record.base import RecordError
from tpprof.reports.record.journal import Journal
from tpprof.reports.record.schema import Record
from tpprof.reports.record.spec import OptionError, RunSpec
from tpprof.reports.record.spec_files import rooted


def asked(count: int = 3) -> Accuracy:
    questions = [
        YesNoQuestion(id=str(i), category="random", picture="a.jpg", prompt="Is it?", label="yes")
        for i in range(count)
    ]
    return Accuracy(
        benchmark="POPE",
        source="made up",
        attention="rows",
        new_tokens=4,
        batch_size=2,
        questions=questions,
        answers=[Answers(method="vanilla"), Answers(method="fastv")],
    )


def journalled(path: Path, *lines: files.Line) -> Record:
    begun = record(cell("vanilla", "rows", 2.0, 1000))
    journal = Journal.begin(files.journal_of(path), files.Begun(record=begun))
    for line in lines:
        journal.append(line)
    journal.close()
    return files.load(path)


def test_answers_are_there_as_soon_as_they_are_given(tmp_path: Path) -> None:
    found = journalled(
        tmp_path / "run.json",
        files.Asked(accuracy=asked()),
        files.Answered(row=0, places=[2, 0], texts=["No", "Yes"]),
        files.Answered(row=1, error="no room"),
    )
    assert found.accuracy is not None
    assert found.accuracy.answers[0].texts == ["Yes", None, "No"]
    assert found.accuracy.answers[1].error == "no room"
    assert not found.complete or found.accuracy


def test_an_answer_to_no_question_is_left_out_with_a_warning(tmp_path: Path) -> None:
    found = journalled(
        tmp_path / "run.json",
        files.Asked(accuracy=asked()),
        files.Answered(row=0, places=[7], texts=["Yes"]),
        files.Answered(row=9, places=[0], texts=["Yes"]),
    )
    assert found.accuracy is not None
    assert found.accuracy.answers[0].texts == [None, None, None]
    assert sum("is left out" in line for line in found.environment.warnings) == 2


def test_a_record_with_too_few_answers_is_damaged(tmp_path: Path) -> None:
    given = record(cell("vanilla", "rows", 2.0, 1000))
    given.accuracy = asked()
    given.accuracy.answers[0].texts = ["Yes"]
    files.save(given, tmp_path / "run.json")
    with pytest.raises(RecordError, match="damaged"):
        files.load(tmp_path / "run.json")


def test_annotations_and_images_go_together() -> None:
    with pytest.raises(OptionError, match="annotations needs images beside it"):
        RunSpec.of(annotations="pope")
    with pytest.raises(OptionError, match="images needs annotations beside it"):
        RunSpec.of(images="val2014")


def test_folders_lead_from_the_file_of_options(tmp_path: Path) -> None:
    spec = rooted(RunSpec.of(annotations="pope", images="../val2014"), tmp_path)
    assert spec.accuracy.annotations == str(tmp_path.resolve() / "pope")
    assert spec.accuracy.images == str(tmp_path.resolve().parent / "val2014")
