"""`tpprof compare --accuracy`: questions behind the timing, by a process of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command import in_this_process
from pope_files import save_checkpoint, write_pope
from warm_children import STOPPED

import tpprof
from tpprof.profiler import subprocesses
from tpprof.profiler.accuracy import beside
from tpprof.profiler.run import comparison
from tpprof.reports.analysis.accuracy.rules import RULES
from tpprof.reports.analysis.accuracy.scores import of_record, scores
from tpprof.reports.record.accuracy import same_questions
from tpprof.reports.record.files import load
from tpprof.reports.record.schema import Record
from tpprof.reports.record.spec import OptionError, changed

pytestmark = pytest.mark.usefixtures("warm_children")
QUICK = ("--keep", "9", "--rounds", "1", "--passes", "none", "--device", "cpu", "--attention")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("beside")
    write_pope(folder, pictures=6)
    save_checkpoint(folder / "model")
    return folder


def compare(place: Path, *arguments: str) -> Any:
    return in_this_process(
        *("compare", *arguments, *QUICK, "rows", "--model", "model", "--accuracy"),
        *("--annotations", "annotations", "--images", "val2014"),
        cwd=place,
    )


@pytest.fixture(scope="module")
def record(place: Path, warm_children: None) -> Record:
    done = compare(place, "fastv", "random", "--out", "run.json", "--html", "run.html")
    assert done.returncode == 0, done.stderr
    assert "F1" in done.stdout
    return load(place / "run.json")


def test_the_record_holds_what_was_answered(record: Record) -> None:
    accuracy = record.accuracy
    assert record.complete
    assert accuracy is not None
    assert [row.method for row in accuracy.answers] == ["vanilla", "fastv:keep=9", "random:keep=9"]
    assert all(len(row.texts) == 36 and None not in row.texts for row in accuracy.answers)
    assert len(record.processes) == 1, "the process that asks measures nothing"
    for rule in RULES:  # any of them, without the model
        record.spec = changed(record.spec, rule=rule)
        assert list(of_record(record).values()) == scores(accuracy, RULES[rule])


def test_the_answers_are_those_of_tpprof_eval(record: Record, place: Path) -> None:
    done = in_this_process(
        *("eval", "pope", "fastv", "random", "--keep", "9", "--model", "model", "--device", "cpu"),
        *("--annotations", "annotations", "--images", "val2014", "--format", "json"),
        cwd=place,
    )
    rows = json.loads(done.stdout)
    assert record.accuracy is not None
    expected = scores(record.accuracy, RULES["llava"])
    assert [row["f1"] for row in rows] == [score.f1.value for score in expected if score.f1]


@pytest.mark.parametrize("form", ["json", "csv"])
def test_table_7_has_the_column_by_any_rule(record: Record, place: Path, form: str) -> None:
    shown = in_this_process("report", "run.json", "--rule", "strict", "--format", form, cwd=place)
    assert record.accuracy is not None
    assert shown.returncode == 0
    f1 = scores(record.accuracy, RULES["strict"])[0].f1
    assert f1 is not None
    if form == "json":
        assert json.loads(shown.stdout)[0]["f1"] == f1.value
        assert json.loads(shown.stdout)[1]["mcnemar_p_by_category"].keys() == {
            *("random", "popular", "adversarial")
        }
    else:
        assert "f1_difference_low" in shown.stdout.splitlines()[0].split(",")


def test_the_page_shows_answers_beside_the_clock(record: Record, place: Path) -> None:
    page = (place / "run.html").read_text()
    assert "Answers and clock" in page
    assert "unreadable answers" in page


def test_a_method_that_fails_there_is_a_failed_row_and_said(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "late.py").write_text(LATE)
    done = compare(place, "late", "--plugin", "late.py", "--out", str(tmp_path / "run.json"))
    assert done.returncode == 1
    found = load(tmp_path / "run.json").accuracy
    assert found is not None
    assert found.answers[0].error == ""
    assert found.answers[1].error == "RuntimeError: not with this text (late.py line 19)"
    assert "no F1 of late" in done.stdout


def test_a_process_that_asks_and_dies_is_a_reason_and_no_zero(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        beside, "finish", lambda command, task: (-9, "process ended by SIGKILL (out of memory?)")
    )
    done = compare(place, "fastv", "--out", str(tmp_path / "run.json"))
    assert done.returncode == 1
    found = load(tmp_path / "run.json").accuracy
    assert found is not None
    assert {row.error for row in found.answers} == {"process ended by SIGKILL (out of memory?)"}
    assert "no F1 of vanilla: failed: process ended by SIGKILL" in done.stdout


def test_an_interrupted_exam_is_gone_on_with(
    place: Path, tmp_path: Path, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended after one batch: what is timed and answered stays, and the rest is asked."""
    out = str(tmp_path / "run.json")

    def first_batch(command: list[str], task: bytes) -> tuple[int, str]:
        begin = command[-1].partition("from tpprof")[0]
        subprocesses.finish([*command[:-1], begin + STOPPED], task)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(beside, "finish", first_batch)
        done = compare(place, "fastv", "random", "--out", out)
    assert done.returncode == 130
    partial = load(tmp_path / "run.json")
    assert not partial.complete
    assert partial.accuracy is not None
    answered = [text for text in partial.accuracy.answers[0].texts if text is not None]
    assert 0 < len(answered) < 36
    assert "of 36 answered" in done.stdout
    template = place / "model" / "chat_template.jinja"
    before = template.read_bytes()
    template.write_bytes(before + b" ")
    changed_since = compare(place, "fastv", "random", "--out", out, "--resume")
    template.write_bytes(before)
    assert changed_since.returncode == 2
    assert "the checkpoint's files have changed" in changed_since.stderr
    assert load(tmp_path / "run.json").accuracy == partial.accuracy
    again = compare(place, "fastv", "random", "--out", out, "--resume")
    assert again.returncode == 0, again.stderr
    whole = load(tmp_path / "run.json")
    assert whole.complete
    assert whole.accuracy == record.accuracy
    assert [len(cell.samples) for cell in whole.cells] == [1, 1, 1], "nothing is timed again"


@pytest.mark.parametrize("file", ["val2014/COCO_1.png", "model/chat_template.jinja"])
def test_answers_of_other_pictures_or_another_checkpoint_are_not_the_same(
    file: str, place: Path, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    assert record.accuracy is not None
    assert same_questions(record.accuracy, beside.wanted(record))
    before = Path(file).read_bytes()
    try:
        Path(file).write_bytes(before + b" ")
        assert not same_questions(record.accuracy, beside.wanted(record))
    finally:
        Path(file).write_bytes(before)


def test_from_python_with_a_model_that_is_named(
    place: Path, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    options: dict[str, Any] = {
        "keep": 9,
        "rounds": 1,
        "passes": False,
        "attention": ["rows"],
        "device": "cpu",
        "accuracy": True,
        "annotations": "annotations",
        "images": "val2014",
    }
    found = tpprof.compare(["fastv", "random"], model="model", **options)
    assert found.complete
    assert found.accuracy == record.accuracy
    loaded = tpprof.load("model", device="cpu")
    with pytest.raises(OptionError, match="a process of its own"):
        tpprof.compare("fastv", model=loaded, **options)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--model", "model"), "its accuracy needs questions: give --annotations"),
        (("--model", "tiny-llava"), "its accuracy needs questions: give --annotations"),
        (
            ("--model", "tiny-llava", "--annotations", "annotations", "--images", "val2014"),
            "random weights and no tokenizer",
        ),
        (
            ("--model", "model", "--annotations", "annotations", "--images", "annotations"),
            "6 of 6 pictures are missing",
        ),
        (("--model", "model", "--annotations", "annotations"), "annotations needs --images"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, tuple) else "",
)
def test_what_cannot_be_asked_is_one_line_before_anything_is_timed(
    place: Path, options: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison.Comparison, "run", None)
    done = in_this_process("compare", "fastv", "--accuracy", *options, *QUICK, "rows", cwd=place)
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


LATE = '''
from dataclasses import dataclass
from tpprof.methods import Entering, Method, Plan, Stage, register


@register("late")
@dataclass(frozen=True)
class Late(Method):
    """Fails where it is asked POPE's questions, whose text is longer.

    Paper: https://example.org/late
    """

    def plan(self, request):
        return Plan([Stage(Entering(2), request.visual)])

    def decide(self, view, stage):
        if view.request.new_tokens > 2:
            raise RuntimeError("not with this text")
        return None
'''
