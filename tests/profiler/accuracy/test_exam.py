"""POPE's own files: what is read of them, and what is refused before any model is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pope_files import write_pope

from tpprof.profiler.accuracy.exam import first_of_each, set_exam
from tpprof.profiler.accuracy.pope import SUFFIX, QuestionsError, read_pope, require_pictures
from tpprof.reports.record.spec import AccuracySpec

LINE = {"question_id": 1, "image": "a.jpg", "text": "Is there a dog in the image?", "label": "yes"}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return write_pope(tmp_path)


def test_questions_are_read_with_the_suffix_that_papers_add(folders: tuple[Path, Path]) -> None:
    questions = read_pope(folders[0])
    assert len(questions) == 48
    first = questions[0]
    assert (first.id, first.category, first.picture) == ("1", "random", "COCO_0.png")
    assert first.prompt == f"Is there a dog the image?\n{SUFFIX}"
    assert first.label == "yes"
    assert [q.category for q in questions[::16]] == ["random", "popular", "adversarial"]


def test_missing_pictures_are_an_error(folders: tuple[Path, Path]) -> None:
    questions = read_pope(folders[0])
    require_pictures(questions, folders[1])
    (folders[1] / "COCO_3.png").unlink()
    with pytest.raises(QuestionsError, match=r"1 of 8 pictures are missing, 'COCO_3.png' first"):
        require_pictures(questions, folders[1])
    with pytest.raises(QuestionsError, match="no such folder of pictures"):
        require_pictures(questions, folders[1] / "none")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "a JSON object with question_id, image, text and label is needed"),
        ("[1]", "a JSON object with"),
        (json.dumps({**LINE, "image": 7}), "a JSON object with"),
        (json.dumps({**LINE, "text": " "}), "a JSON object with"),
        (json.dumps({**LINE, "label": "maybe"}), "its label is 'maybe'; known: yes, no"),
        (json.dumps({**LINE, "image": "../a.jpg"}), "lies in no folder of pictures"),
        (json.dumps({**LINE, "image": "/a.jpg"}), "lies in no folder of pictures"),
        (f"{json.dumps(LINE)}\n{json.dumps(LINE)}", "line 2: question '1' is there already"),
        ("", "holds no question"),
        (json.dumps([LINE]), "is needed, one on each line"),
        (json.dumps({k: LINE[k] for k in LINE if k != "label"}), "and has no label"),
        (json.dumps({**LINE, "label": "Yes"}), "its label is 'Yes'; known: yes, no"),
        (json.dumps({**LINE, "question_id": None}), "is needed: a number, and texts"),
        (json.dumps({**LINE, "text": "a \ud800?"}), "half a character"),
    ],
)
def test_what_is_no_question_is_refused(folders: tuple[Path, Path], line: str, told: str) -> None:
    (folders[0] / "coco_pope_popular.json").write_text(line)
    with pytest.raises(QuestionsError, match="popular") as refused:
        read_pope(folders[0])
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda lines: "\ufeff" + "".join(lines),
        lambda lines: "".join(lines).replace("\n", "\r\n"),
        lambda lines: "\n\n".join(line.strip() for line in lines),
        lambda lines: "".join(
            line.replace(" the image?", f" the image?\\n{SUFFIX}") for line in lines
        ),
    ],
    ids=["a byte-order mark", "lines of Windows", "empty lines", "the suffix is there"],
)
def test_the_same_questions_otherwise_written_are_the_same(
    folders: tuple[Path, Path], rewrite: Callable[[list[str]], str]
) -> None:
    asked = read_pope(folders[0])
    for path in folders[0].iterdir():
        path.write_bytes(rewrite(path.read_text().splitlines(keepends=True)).encode())
    assert read_pope(folders[0]) == asked


def test_what_unicode_takes_for_a_line_break_may_stand_in_a_question(
    folders: tuple[Path, Path],
) -> None:
    line = json.dumps({**LINE, "text": "Is there\u2028a\x85dog?"}, ensure_ascii=False)
    (folders[0] / "coco_pope_random.json").write_text(line, encoding="utf-8")
    assert read_pope(folders[0])[0].prompt == f"Is there\u2028a\x85dog?\n{SUFFIX}"


def test_files_of_different_benchmarks_are_refused(folders: tuple[Path, Path]) -> None:
    (folders[0] / "coco_pope_random.json").rename(folders[0] / "gqa_pope_random.json")
    with pytest.raises(QuestionsError, match=r"different benchmarks \(coco_pope, gqa_pope\)"):
        read_pope(folders[0])


def test_a_picture_whose_name_no_system_takes_is_missing(folders: tuple[Path, Path]) -> None:
    line = json.dumps({**LINE, "image": "a" * 300})
    (folders[0] / "coco_pope_random.json").write_text(line)
    with pytest.raises(QuestionsError, match="1 of 9 pictures are missing"):
        require_pictures(read_pope(folders[0]), folders[1])
    with pytest.raises(QuestionsError, match="no such folder of annotations"):
        read_pope(Path("a" * 300))


def test_each_category_needs_one_file(folders: tuple[Path, Path], tmp_path: Path) -> None:
    random = folders[0] / "coco_pope_random.json"
    (folders[0] / "gqa_pope_random.json").write_bytes(random.read_bytes())
    with pytest.raises(QuestionsError, match=r"coco_pope_random.json, gqa_pope_random.json"):
        read_pope(folders[0])
    random.unlink()
    (folders[0] / "gqa_pope_random.json").unlink()
    with pytest.raises(QuestionsError, match=r"coco_pope_random.json is needed, .* is none"):
        read_pope(folders[0])
    with pytest.raises(QuestionsError, match="no such folder of annotations"):
        read_pope(tmp_path / "nowhere")


def test_fewer_questions_are_the_first_of_each_category(folders: tuple[Path, Path]) -> None:
    questions = read_pope(folders[0])
    few = first_of_each(questions, 14)
    assert [q.id for q in few] == ["1", "2", "3", "4"] * 3
    assert first_of_each(questions, None) == questions


def test_other_models_need_annotations() -> None:
    with pytest.raises(Exception, match="llava-7b: its accuracy needs questions: give --annot"):
        set_exam(AccuracySpec(accuracy=True), "llava-7b")
