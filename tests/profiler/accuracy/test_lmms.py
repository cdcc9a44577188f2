"""lmms-eval asks a pruned model: its own task on local rows, and errors that are errors."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from pope_files import save_checkpoint, write_pope

from tpprof.profiler.accuracy.pope import read_pope
from tpprof.profiler.accuracy.resumable import ResumableEvaluation
from tpprof.reports.analysis.accuracy.rules import RULES
from tpprof.reports.analysis.accuracy.scores import scores
from tpprof.reports.record.spec import RunSpec

pytestmark = pytest.mark.skipif(
    find_spec("lmms_eval") is None, reason="lmms-eval is not installed (docs/accuracy.md)"
)
PROGRAM = """
import datasets, json, pathlib, sys
from PIL import Image
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.models import get_model
from tpprof.methods.contract.errors import InputError
from tpprof.profiler.accuracy.lmms import PrunedModel, manifest

folder, rows = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
shown = [{**row, "image": Image.open(folder / "val2014" / row["image"])} for row in rows]
datasets.Dataset.from_list(shown).to_parquet(str(folder / "rows.parquet"))
task = {
    "task": "pope",
    "dataset_path": "parquet",
    "generation_kwargs": {"max_new_tokens": 1, "temperature": 0, "do_sample": False},
    "dataset_kwargs": {"data_files": {"test": str(folder / "rows.parquet")}},
}

def asked(model, **more):
    found = simple_evaluate(
        model=model, tasks=[{**task, **more}], bootstrap_iters=0, log_samples=True
    )
    said = {s["doc"]["question_id"]: s["filtered_resps"][0] for s in found["samples"]["pope"]}
    return {"f1": found["results"]["pope"]["pope_f1_score,none"], "said": said}

def refused(make, **more):
    try:
        asked(make(), **more)
    except InputError as error:
        return str(error)

model = str(folder / "model")
pruned = PrunedModel(model, "fastv:keep=30", device="cpu", batch_size=4)
found = {
    "manifest": manifest().model_id,
    "fastv": asked(pruned),
    "again": asked(pruned),
    "typed": asked(
        PrunedModel.create_from_arg_string(
            f"pretrained={model},method=fastv,keep=30", {"device": "cpu", "batch_size": 4}
        )
    ),
    "random": asked(PrunedModel(model, "random", keep=30, device="cpu")),
    "raises": refused(
        lambda: PrunedModel(model, "late", device="cpu", plugin=str(folder / "late.py"))
    ),
    "budget": refused(lambda: PrunedModel(model, "sparsevlm:keep=2", device="cpu")),
    "sampled": refused(lambda: pruned, generation_kwargs={"temperature": 0.7}),
}
pathlib.Path(sys.argv[3]).write_text(json.dumps(found))
"""
LATE = '''
from dataclasses import dataclass
from tpprof.methods import Entering, Method, Plan, Stage, register


@register("late")
@dataclass(frozen=True)
class Late(Method):
    """Always fails.

    Paper: https://example.org/late
    """

    def plan(self, request):
        return Plan([Stage(Entering(2), request.visual)])

    def decide(self, view, stage):
        raise RuntimeError("no, never")
'''


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lmms")
    write_pope(folder)
    save_checkpoint(folder / "model")
    (folder / "late.py").write_text(LATE)
    return folder


@pytest.fixture(scope="module")
def found(place: Path) -> dict[str, Any]:
    """What the harness finds, in a process of its own: it patches what it imports."""
    rows = [
        {
            "question_id": f"{question.category} {question.id}",
            "question": question.prompt.partition("\n")[0],
            "answer": question.label,
            "image": question.picture,
            "category": question.category,
        }
        for question in read_pope(place / "annotations")
    ]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(place), json.dumps(rows), str(place / "found.json")],
        capture_output=True,
        text=True,
        env={**_offline(), "HF_HOME": str(place / "cache")},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    read: dict[str, Any] = json.loads((place / "found.json").read_text())
    return read


def _offline() -> dict[str, str]:
    import os

    return {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


@pytest.mark.parametrize("method", ["fastv", "random"])
def test_the_harness_gets_our_answers_and_its_f1_is_our_strict_rule(
    method: str, found: dict[str, Any], place: Path, tmp_path: Path
) -> None:
    """Of `random` the draws differ from question to question in either order."""
    spec = RunSpec.of(
        methods=[method],
        keep="30",
        model=str(place / "model"),
        device="cpu",
        attention=["rows"],
        annotations=str(place / "annotations"),
        images=str(place / "val2014"),
    )
    asked = ResumableEvaluation(spec, tmp_path, new_tokens=1, batch_size=4)
    asked.run(lambda *_: None)
    own = scores(asked.accuracy, RULES["strict"])[1]
    said = [found[method]["said"][f"{q.category} {q.id}"] for q in asked.accuracy.questions]
    assert said == asked.accuracy.answers[1].texts
    assert own.f1 is not None
    assert own.f1.value > 0
    assert found[method]["f1"] == pytest.approx(own.f1.value)


def test_a_model_can_be_asked_again(found: dict[str, Any]) -> None:
    assert found["again"] == found["fastv"]


def test_the_harness_can_be_told_on_its_command_line(found: dict[str, Any]) -> None:
    assert found["typed"] == found["fastv"]


def test_errors_are_errors_and_no_zeros(found: dict[str, Any]) -> None:
    assert found["raises"] == "late: RuntimeError: no, never (late.py line 18)"
    assert "the least is" in found["budget"]
    assert "temperature is 0.7, and answers here are greedy" in found["sampled"]


def test_the_harness_knows_the_model_by_name(found: dict[str, Any]) -> None:
    assert found["manifest"] == "tpprof"
