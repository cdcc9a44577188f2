"""Evaluations in a folder: killed, gone on with, refused, and read again without the model."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from command import RUN, in_this_process
from pope_files import save_checkpoint, write_pope

from tpprof.methods.contract.errors import InputError
from tpprof.profiler.accuracy.answer_files import APART, PIECE, WHOLE, weights_digest
from tpprof.profiler.accuracy.pope import QuestionsError
from tpprof.profiler.accuracy.resumable import ResumableEvaluation
from tpprof.reports.analysis.accuracy.rules import RULES
from tpprof.reports.analysis.accuracy.scores import scores
from tpprof.reports.record.accuracy import Accuracy
from tpprof.reports.record.spec import RunSpec

PLUGIN = '''
from dataclasses import dataclass
from tpprof.methods import Entering, Keep, Method, Plan, Stage, register

@register("stumbling")
@dataclass(frozen=True)
class Stumbling(Method):
    """Fails on its second request.

    Paper: https://example.org/stumbling
    """

    def plan(self, request):
        return Plan([Stage(Entering(2), request.visual)])

    def decide(self, view, stage):
        calls.append(1)
        if len(calls) > 2:
            raise RuntimeError("no more")
        return None

calls = []
'''


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint `model`, `annotations` and `val2014`."""
    folder = tmp_path_factory.mktemp("eval")
    write_pope(folder)
    save_checkpoint(folder / "model")
    (folder / "stumbling.py").write_text(PLUGIN)
    return folder


@pytest.fixture(autouse=True)
def _there(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(place)
    return


def evaluation(out: Path, *methods: str, **options: Any) -> ResumableEvaluation:
    own = {name: options.pop(name) for name in ("new_tokens", "batch_size") if name in options}
    given: dict[str, Any] = {
        "model": "model",
        "annotations": "annotations",
        "images": "val2014",
        "attention": ["rows"],
        "layout": "anyres",
        "device": "cpu",
        "keep": "9",
        **options,
    }
    spec = RunSpec.of(methods=methods or ("fastv", "random"), **given)
    return ResumableEvaluation(spec, out, **{"new_tokens": 4, "batch_size": 4, **own})


def nobody(label: str, done: int, total: int) -> None:
    return None


def run(out: Path, *methods: str, **options: Any) -> Accuracy:
    asked = evaluation(out, *methods, **options)
    asked.run(nobody)
    return asked.accuracy


@pytest.fixture(scope="module")
def whole(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an evaluation that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(place)
        run(out)
    return out


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_for_each_question_and_a_file_for_each_method(whole: Path) -> None:
    assert sorted(path.name for path in (whole / "answers").glob("*.jsonl")) == [
        "fastv-9.jsonl",
        "random-9.jsonl",
        "vanilla.jsonl",
    ]
    for path in (whole / "answers").glob("*.jsonl"):
        assert len(lines(path)) == 48
    first = lines(whole / "answers" / "fastv-9.jsonl")[0]
    assert first["question_id"] == "1"
    assert first["model_id"] == "model fastv:keep=9"
    assert set(first["text"].split()) <= {"Yes", "No"}


def test_an_evaluation_that_ended_early_gives_what_it_would_have_given(
    whole: Path, tmp_path: Path
) -> None:
    """Cut in the middle of a batch and of a line, as a kill leaves it."""
    out = tmp_path / "cut"
    shutil.copytree(whole, out)
    cut = out / "answers" / "fastv-9.jsonl"
    content = cut.read_bytes().splitlines(keepends=True)
    cut.write_bytes(b"".join(content[:10]) + content[10][:20])
    (out / "answers" / "random-9.jsonl").unlink()
    (out / "answers" / "random-9.key.json").unlink()
    resumed, undisturbed = run(out), evaluation(whole).accuracy
    assert resumed == undisturbed
    assert sorted(map(str, lines(cut))) == sorted(
        map(str, lines(whole / "answers" / "fastv-9.jsonl"))
    )
    for rule in RULES.values():
        assert scores(resumed, rule) == scores(undisturbed, rule)


def test_complete_answers_are_read_by_another_rule_without_model_or_pictures(
    whole: Path, tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("annotations",):
        shutil.copytree(place / name, tmp_path / name)
    shutil.copytree(whole, tmp_path / "out")
    monkeypatch.setattr("tpprof.profiler.models.load.load", None)
    shown = {}
    for rule in RULES:
        done = in_this_process(
            *("eval", "pope", "fastv:keep=9", "random:keep=9", "--model", "model"),
            *("--annotations", "annotations", "--images", "gone", "--output", "out"),
            *("--new-tokens", "4", "--batch-size", "4", "--rule", rule, "--format", "json"),
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        shown[rule] = json.loads(done.stdout)
        assert [row["rule"] for row in shown[rule]] == [rule] * 3
    expected = scores(evaluation(whole).accuracy, RULES["words"])
    assert [row["f1"] for row in shown["words"]] == [s.f1.value if s.f1 else None for s in expected]
    assert shown["llava"][0]["mcnemar_p"] is None
    assert shown["llava"][1]["f1_difference"] is not None


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"new_tokens": 5}, "new_tokens 4, now 5"),
        ({"batch_size": 8}, "batch_size 4, now 8"),
        ({"attention": ["maps"]}, "attention rows, now maps"),
        ({"dtype": "bfloat16"}, "dtype float32, now bfloat16"),
        ({"questions": 12}, "questions "),
        ({"model": "other"}, "model model, now other"),
        ({"plugin": ["stumbling.py"]}, "plugins {}, now {'stumbling"),
    ],
    ids=lambda given: "".join(given) if isinstance(given, dict) else "",
)
def test_answers_of_another_run_are_refused(
    whole: Path, changed: dict[str, Any], told: str, place: Path
) -> None:
    if "model" in changed and not (place / "other").exists():
        shutil.copytree(place / "model", place / "other")
    with pytest.raises(InputError, match="holds answers of another run") as refused:
        evaluation(whole, **changed)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_other_weights_are_refused(whole: Path, place: Path, tmp_path: Path) -> None:
    changed = place / "model" / "model.safetensors"
    before = changed.read_bytes()
    changed.write_bytes(before[:-4] + b"\0\0\0\1")
    try:
        with pytest.raises(InputError, match="weights "):
            evaluation(whole)
    finally:
        changed.write_bytes(before)


@pytest.mark.parametrize("suffix", [".jinja", ".safetensors"])
def test_a_digest_is_of_all_that_decides_an_answer(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is small, one of megabytes, and a matrix in the middle of one too large to be
    read whole."""
    for size in (100, 5 * APART):
        for whole in (WHOLE, APART):
            monkeypatch.setattr("tpprof.profiler.accuracy.answer_files.WHOLE", whole)
            file = tmp_path / f"a{suffix}"
            file.write_bytes(bytes(size))
            before = weights_digest(tmp_path)
            start = size // 3
            changed = min(APART + PIECE, size - start)
            file.write_bytes(bytes(start) + b"\1" * changed + bytes(size - start - changed))
            assert weights_digest(tmp_path) != before


def test_other_pictures_of_the_same_names_are_refused(
    whole: Path, place: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    shutil.copytree(place / "val2014", images)
    assert evaluation(whole, images=str(images)).files.complete
    shutil.copy(images / "COCO_1.png", images / "COCO_3.png")
    with pytest.raises(InputError, match="pictures "):
        evaluation(whole, images=str(images))


def test_a_second_answer_to_a_question_is_refused(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    answers = out / "answers" / "fastv-9.jsonl"
    first = lines(answers)[0]
    for text, refused in ((first["text"], False), (f"{first['text']} or not", True)):
        second = json.dumps({**first, "text": text}) + "\n"
        answers.write_text((whole / "answers" / "fastv-9.jsonl").read_text() + second)
        if refused:
            with pytest.raises(InputError, match=r"line 49 is no answer .* or another one"):
                evaluation(out)
        else:
            assert evaluation(out).files.complete


def test_a_knob_has_a_file_of_its_own(tmp_path: Path) -> None:
    listed = ("fastv:layer=3", "fastv", "pooling:keep=1/4", "fastv:tag=a", "fastv:tag=a/")
    stems = [path.stem for path in evaluation(tmp_path, *listed[:4]).files.paths]
    assert len(set(stems)) == 5
    assert stems[:3] == ["vanilla", "fastv-9-layer-3", "fastv-9"]


def test_a_method_that_raises_is_a_failed_row_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = in_this_process(
        *("eval", "pope", "stumbling", "sparsevlm:keep=2", "fastv:keep=9", "--model", "model"),
        *("--plugin", "stumbling.py", "--annotations", "annotations", "--images", "val2014"),
        *("--new-tokens", "2", "--output", str(tmp_path / "out"), "--device", "cpu"),
        *("--format", "json", "--questions", "24"),
        cwd=Path.cwd(),
    )
    assert done.returncode == 1
    vanilla, stumbling, sparsevlm, fastv = json.loads(done.stdout)
    assert stumbling["error"].startswith("failed: RuntimeError: no more (stumbling.py line ")
    assert "the least is" in sparsevlm["error"]
    assert stumbling["f1"] is sparsevlm["f1"] is None
    assert vanilla["f1"] is not None
    assert fastv["f1"] is not None


def test_missing_pictures_are_told_before_any_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tpprof.profiler.models.load.load", None)
    asked = evaluation(tmp_path, images="annotations")
    with pytest.raises(QuestionsError, match="8 of 8 pictures are missing"):
        asked.run(nobody)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_what_was_answered_when_it_was_ended_is_kept(
    number: signal.Signals, code: int, tmp_path: Path, place: Path, whole: Path
) -> None:
    """Really ended, as soon as vanilla has answers; then gone on with."""
    out = tmp_path / "out"
    process = subprocess.Popen(
        [
            *(*RUN, "eval", "pope", "fastv", "random", "--keep", "9", "--model", "model"),
            *("--annotations", "annotations", "--images", "val2014", "--output", str(out)),
            *("--new-tokens", "4", "--batch-size", "4", "--device", "cpu"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=place,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    answers = out / "answers" / "vanilla.jsonl"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if answers.exists() and answers.stat().st_size:
            process.send_signal(number)
            break
        time.sleep(0.005)
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == code
    assert code != 130 or b"of 48 answered" in shown
    known = evaluation(out).files.known(0)
    assert known
    assert run(out) == evaluation(whole).accuracy


def test_a_device_by_its_number_is_gone_on_with(whole: Path, tmp_path: Path) -> None:
    """Answers of `cuda:1` are kept under `cuda`, which the model's device is of."""
    named = evaluation(tmp_path / "named", device="cuda:1")
    found = SimpleNamespace(dtype=torch.float32, device=torch.device("cuda", 1))
    assert {key.device for key in named._keys_with(found)} == {"cuda"}  # type: ignore[arg-type]
    assert {key.device for key in named._keys()} == {"cuda"}


def test_nobody_else_writes_meanwhile(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    (out / "answers" / "vanilla.jsonl").write_bytes(
        b"".join((whole / "answers" / "vanilla.jsonl").read_bytes().splitlines(True)[:3])
    )
    first = evaluation(out)
    first.files._begin(0)
    with pytest.raises(InputError, match="belongs to a run that still goes on"):
        evaluation(out)
    first.files.close()
    assert evaluation(out).files.known(0)
