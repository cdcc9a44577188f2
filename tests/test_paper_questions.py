"""The page of the paper's questions, its pictures and its figures: what the results say."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import paper_questions
import pytest
import torch
from paper import figures, page, results
from paper.asking import Asking
from paper.questions import (
    POPE,
    TABLE_1,
    WHERE,
    Examination,
    ExamSource,
    Question,
    of_composed,
    of_drawn,
)
from smol_dino import composed

import tpprof
from tpprof.profiler.seer.questions import SUFFIX
from tpprof.profiler.smol_dino.training.nouns import FILES
from tpprof.profiler.smol_dino.training.scenes import TEST, Bank, scene
from tpprof.reports.analysis.accuracy.scores import CategoryScore, Score
from tpprof.reports.analysis.intervals import Estimate
from tpprof.reports.figures.canvas import style
from tpprof.reports.record import files
from tpprof.reports.record.schema import Record

DOCS = Path(tpprof.__file__).parent / "docs"
PAGE = DOCS / "paper-questions.md"
WRITTEN = sorted(
    path for path in DOCS.glob("paper-questions-*.json") if "-table-7" not in path.stem
)


def test_there_are_results() -> None:
    assert [path.stem for path in WRITTEN][:1] == ["paper-questions-seer"]


@pytest.fixture(params=WRITTEN, ids=lambda path: path.stem)
def given(request: pytest.FixtureRequest) -> Iterator[tuple[results.Results, Record | None]]:
    path: Path = request.param
    record = page.record_beside(path)
    with style():
        yield results.load(path), files.load(record) if record.exists() else None


def test_the_page_says_what_the_results_say(given: tuple[results.Results, Record | None]) -> None:
    text = PAGE.read_text()
    assert page.replaced(text, *given, PAGE.stem) == text


def test_pictures_show_what_the_results_say(given: tuple[results.Results, Record | None]) -> None:
    """Each dot and each line lies where the results have it, and the pictures of the page say their
    values."""
    found, record = given
    drawn = {chart.name: chart for chart in figures.charts(found, record)}
    for name in ("table-1", "table-6"):
        tables = [found.table(name, budget) for budget in found.budgets]
        known = [
            score.f1.value
            for table in tables
            if table is not None and not table.blind
            for score in table.scores[1:]
            if score.f1 is not None
        ]
        if not known:
            assert name not in drawn
            continue
        axes = drawn[name].figure.axes[0]
        shown = {
            float(value)
            for line in axes.lines
            if line.get_marker() == "o"
            for value in (line.get_xdata() if name == "table-1" else line.get_ydata())
        }
        assert shown == set(known)
        words = texts(DOCS / f"{page.stem_of(found, PAGE.stem)}-{name}.svg")
        for value in known:
            assert f"{value:.3f}" in words
    panels = drawn["figure-2"].figure.axes
    steps = [list(p.get_data().values) for axes in panels for p in axes.patches]
    order = list(dict.fromkeys(position.method for position in found.positions))
    wanted = sorted(found.positions, key=lambda position: order.index(position.method))
    assert steps == [position.multiples for position in wanted]
    words = texts(DOCS / f"{page.stem_of(found, PAGE.stem)}-figure-2.svg")
    for axes in panels:
        assert axes.get_title(loc="left") in words


def texts(path: Path) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text())


def test_the_record_of_table_7_is_drawn(tmp_path: Path) -> None:
    record = files.load(page.record_beside(WRITTEN[0]))
    with style():
        drawn = figures.table_7(record)
    assert drawn is not None
    words = texts(DOCS / "paper-questions-seer-table-7.svg")
    for method in ("vanilla", "fastv:keep=64", "random:keep=64"):
        assert method in words


def test_one_command_writes_page_pictures_and_results_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / PAGE.name
    text = PAGE.read_text()
    begin, end = page.marks(results.load(WRITTEN[0]))
    before, after = text.index(begin) + len(begin), text.index(end)
    target.write_text(text[:before] + text[after:])
    given = ["--from", str(WRITTEN[0]), "--write", str(target)]
    monkeypatch.setattr("sys.argv", ["paper_questions.py", *given])
    paper_questions.main()
    assert target.read_text() == text
    assert (tmp_path / WRITTEN[0].name).read_bytes() == WRITTEN[0].read_bytes()
    names = {path.name for path in tmp_path.glob("*.svg")}
    assert names == {path.name for path in DOCS.glob("paper-questions-seer-*.svg")}
    assert capsys.readouterr().out.strip() in text


def test_a_page_without_marks_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "page.md"
    target.write_text("nothing\n")
    given = ["--from", str(WRITTEN[0]), "--write", str(target)]
    monkeypatch.setattr("sys.argv", ["paper_questions.py", *given])
    with pytest.raises(SystemExit) as ended:
        paper_questions.main()
    assert ended.value.code == 2
    assert "the page has no <!-- seer: printed --> ..." in capsys.readouterr().err
    assert target.read_text() == "nothing\n"
    assert list(tmp_path.iterdir()) == [target]


def estimate(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, low, high, 20)


def made(*spans: tuple[float, float], blind: str = "") -> results.Results:
    """FastV less random, a span a budget: what is told of Table 1's first line."""
    scores = [
        Score(f"{name}:keep=64", {"random": CategoryScore(4, f1, f1, 0.5, 0)}, estimate(f1, f1))
        for name, f1 in (("random", 0.75), ("fastv", 0.5))
    ]
    budgets = list(range(len(spans)))
    tables = [
        results.TableResult(
            TABLE_1.name,
            TABLE_1.title,
            budget,
            "benchmark",
            "source",
            {"random": 4},
            blind,
            scores,
            [results.Difference("random", "fastv", estimate(*span))],
        )
        for budget, span in zip(budgets, spans, strict=True)
    ]
    return results.Results("command", "seer", None, "llava", budgets, tables, [])


@pytest.mark.parametrize(
    ("spans", "here"),
    [
        ([(0.1, 0.3)], "yes"),
        ([(-0.3, -0.1)], "no"),
        ([(-0.1, 0.2)], "not told apart"),
        ([(0.1, 0.3), (-0.1, 0.1)], "at 0: yes; at 1: not told apart"),
    ],
)
def test_a_verdict_is_what_the_intervals_say(spans: list[tuple[float, float]], here: str) -> None:
    text = page.printed(made(*spans), None)
    assert f"| Table 1: random selection beats FastV | {here} |" in text
    assert "Table 6: a mixture" not in text


def test_what_is_answered_by_chance_is_not_judged() -> None:
    text = page.printed(made((0.1, 0.3), blind="Not asked: by chance."), None)
    assert "| Table 1: random selection beats FastV | not asked |" in text
    assert "Not asked: by chance." in text
    assert "table-1.svg" not in text


def test_reversed_is_no_worse_unless_it_is_told_to_be() -> None:
    claim = page.Claim("", "", "a", "b", wanted=0)
    spans = {(0.1, 0.2): "yes", (-0.1, 0.2): "yes", (-0.2, -0.1): "no"}
    for span, here in spans.items():
        assert page._verdict(claim, results.Difference("a", "b", estimate(*span))) == here


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    found, path = made((0.1, 0.3)), tmp_path / "results.json"
    path.write_bytes(results.to_json(found))
    assert results.load(path) == found
    assert msgspec.json.decode(path.read_bytes())["tables"][0]["scores"][0]["f1"]["value"] == 0.75


def test_an_examination_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked by workers of their own; the second time by nobody, with the same results."""
    table = Question("table-1", "Table 1: POPE", POPE, ("random",), [("random", "vanilla")])
    asked = Examination(
        "seer", {POPE: ExamSource(POPE, 36)}, [table], (64,), located=("random",), pictures=2
    )
    monkeypatch.setattr("paper.asking.Asking._blind", lambda self, exam: "")
    first = Asking(asked, tmp_path, 1).run("command")
    (score,) = [one for one in first.tables[0].scores if one.method == "random:keep=64"]
    assert score.questions == sum(first.tables[0].questions.values())
    assert first.positions[0].pictures == 2
    lines = {path: path.read_bytes() for path in tmp_path.rglob("*.json*")}
    monkeypatch.setattr("tpprof.profiler.models.load.load", None)
    assert Asking(asked, tmp_path, 1).run("command") == first
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json*")} == lines


def test_all_pictures_are_on_the_page() -> None:
    for path in DOCS.glob("paper-questions-*.svg"):
        assert f"({path.name})" in PAGE.read_text()


def test_smol_dino_is_asked_of_pope_and_of_where_things_lie() -> None:
    asked = of_composed(Path("bank.npz"), 5, (64,))
    assert [table.name for table in asked.tables] == ["table-1", "table-4"]
    assert {exam: (source.kind, source.most) for exam, source in asked.exams.items()} == {
        POPE: (POPE, 5),
        WHERE: (WHERE, 5),
    }


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (of_drawn("seer", 36, (144, 64)), "--accuracy"),
        (of_composed(Path("bank.npz"), 5, (64,)), "--model smol-dino"),
    ],
)
def test_table_7_is_taken_once_by_the_command_itself(
    asked: Examination, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own; seer's with accuracy, smol-dino's of its time alone."""
    started: list[str] = []

    def run(command: list[str], cwd: Path, **given: object) -> subprocess.CompletedProcess[str]:
        started.append(" ".join(command[3:]))
        (cwd / command[command.index("--out") + 1]).write_text("measured")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr("paper.asking.subprocess.run", run)
    for _ in range(2):
        assert Asking(asked, tmp_path, 1).time().read_text() == "measured"
    (command,) = started
    assert command.startswith(f"compare fastv sparsevlm mustdrop random pooling {told} --keep 64")


def test_a_checkpoint_of_another_training_has_no_table_7() -> None:
    assert of_drawn("some/folder", 36, (64,)).timed is None


def test_where_a_composed_thing_lies_is_asked_rightly() -> None:
    """Every answer is worked out again from the scene of the picture."""
    stamps = torch.zeros(len(FILES), 4, 160, 160, dtype=torch.uint8)
    bank = Bank(stamps, torch.zeros(1, 3, 448, 448, dtype=torch.uint8))
    exam = composed(bank, 12, WHERE)
    assert {question.label for question in exam.questions} == {"yes", "no"}
    for question in exam.questions:
        found = re.fullmatch(
            r"Is the (.+) in the (\w+ \w+) of the image\?", prompted(question.prompt)
        )
        assert found is not None
        things = scene((TEST, int(question.picture))).things
        (thing,) = [one for one in things if one.noun == found[1]]
        lies = f"{'top' if thing.y < 168 else 'bottom'} {'left' if thing.x < 168 else 'right'}"
        assert (question.label == "yes") == (lies == found[2])
    assert exam.pictures.image("3").size == (336, 336)


def prompted(prompt: str) -> str:
    return prompt.removesuffix(f"\n{SUFFIX}")


def test_a_file_of_cut_outs_that_is_not_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "bank.npz"
    given = ["--model", "smol-dino", "--bank", str(missing)]
    monkeypatch.setattr("sys.argv", ["paper_questions.py", *given])
    with pytest.raises(SystemExit) as ended:
        paper_questions.main()
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert f"no such file: {missing}" in told
    assert told.count("\n") == 1
