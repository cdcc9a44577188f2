"""`tpprof check`: what a method breaks is told in plain words; what it keeps holds."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import in_this_process

from tpprof.methods import load_plugins, parse
from tpprof.methods.contract import registry
from tpprof.profiler.authoring import contract, support
from tpprof.profiler.authoring.contract import CHECKS, Finding, findings
from tpprof.profiler.authoring.micro import every_case
from tpprof.profiler.authoring.template import files

ROOT = Path(__file__).resolve().parents[3]
LLAVA = [("llava", "flat")]
SOURCE = """
import torch
from dataclasses import dataclass
from fractions import Fraction
from tpprof.methods import *
from tpprof.methods import Entering, Rows, Stage

seen = []

@register("broken")
@dataclass(frozen=True)
class Broken(Method):
    '''Broken in one way.'''

    keep: Budget = knob(Fraction(1, 3), "visual tokens that stay")

    def plan(self, request):
        {plan}

    def decide(self, view, stage):
        {decide}
"""
PLAN = "return Plan([Stage(Entering(2), request.budget(self.keep))])"
DECIDE = "return top(view.states.norm(dim=-1), stage.tokens)"


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.names()
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))


def broken(tmp_path: Path, plan: str = PLAN, decide: str = DECIDE) -> dict[str, str]:
    """What check says of a method, by check; nothing of what holds."""
    path = tmp_path / "broken.py"
    path.write_text(SOURCE.format(plan=plan, decide=decide))
    load_plugins([str(path)])
    found = list(findings(parse("broken"), LLAVA))  # type: ignore[arg-type]
    return {finding.check: finding.fault for finding in found if finding.fault}


def test_what_is_right_holds(tmp_path: Path) -> None:
    assert broken(tmp_path) == {}


def test_a_method_for_videos_is_shown_one() -> None:
    found = list(findings(parse("evs"), [("internvl", "flat"), *LLAVA]))  # type: ignore[list-item]
    assert [(f.model, f.check, f.fault) for f in found[:-1]] == [
        ("internvl", check, "") for check in ("plan", *CHECKS)
    ]
    assert not any(f.unsupported for f in found[:-1])
    assert found[-1].unsupported.endswith("frames of a video, and this model takes none")


BROKEN = {
    "counts": (
        PLAN,
        "return top(view.states.norm(dim=-1), stage.tokens - 1)",
        "decisions",
        "it keeps 17 visual tokens, where 18 are planned",
    ),
    "order": (
        PLAN,
        "return Keep(view.states.norm(dim=-1).topk(stage.tokens).indices)",
        "decisions",
        "not in ascending order",
    ),
    "duplicates": (
        PLAN,
        "return Keep(torch.arange(stage.tokens)[None].expand(len(view.hidden), -1) // 2)",
        "decisions",
        "each token once",
    ),
    "NaN": (
        PLAN,
        "return top(view.states.norm(dim=-1) * float('nan'), stage.tokens)",
        "decisions",
        "are not numbers",
    ),
    "writing": (
        PLAN,
        "view.states.mul_(2); " + DECIDE,
        "decisions",
        "it writes to the hidden states of its view",
    ),
    "FLOPs that it hides": (
        PLAN,
        "view.states @ view.states.transpose(1, 2); " + DECIDE,
        "FLOPs",
        "declare 0 FLOPs, and torch counts 165,888 under --attention rows, of 36 visual tokens of "
        "width 64, 36 patches a tile",
    ),
    "FLOPs that it has not": (
        PLAN.replace("])", ", flops=7)])").replace(")), flops", "), flops"),
        DECIDE,
        "FLOPs",
        "declare 7 FLOPs, and torch counts 0",
    ),
    "FLOPs that nobody counts": (
        PLAN,
        "torch.linalg.svdvals(torch.cdist(view.states, view.states)); " + DECIDE,
        "FLOPs",
        "torch counts no FLOPs of",
    ),
    "another selection each time": (
        PLAN,
        "seen.append(0); return top(view.states.norm(dim=-1).roll(len(seen), -1), stage.tokens)",
        "repeatable",
        "another selection at layer 2",
    ),
    "less than all": (
        "return Plan([Stage(Entering(2), min(request.budget(self.keep), 30))])",
        DECIDE,
        "keep=100%",
        "keep=100% leaves [36, 36, 30, ",
    ),
    "rows of a batch": (
        PLAN,
        "return Keep(top(view.states.norm(dim=-1), stage.tokens).index[:1])",
        "batch",
        "1 rows for a batch of 2",
    ),
    "all rows as the first": (
        PLAN,
        "kept = top(view.states.norm(dim=-1), stage.tokens).index; "
        "return Keep(kept[:1].expand_as(kept))",
        "batch",
        "a row of a batch of 2 keeps other tokens at layer 2 when the picture of the other row "
        "changes",
    ),
    "rows that are scored together": (
        PLAN,
        "return top((view.states - view.states.mean(0)).norm(dim=-1), stage.tokens)",
        "batch",
        "when the picture of the other row changes",
    ),
    "rows that are mixed": (
        PLAN,
        "kept = top(view.states.norm(dim=-1), stage.tokens).index; return Keep(kept, "
        "take(view.states, kept).mean(0, keepdim=True).expand(len(kept), -1, -1))",
        "batch",
        "has other logits when the other's picture changes",
    ),
    "waiting": (
        PLAN,
        "float(view.states.sum()); " + DECIDE,
        "no waiting",
        "the host waits for a value of a tensor: broken.py line 21 (1x)",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_broken_is_told(tmp_path: Path, kind: str) -> None:
    plan, decide, name, words = BROKEN[kind]
    told = broken(tmp_path, plan, decide)
    assert words in told.get(name, ""), told


@pytest.mark.parametrize("name", registry.names())
def test_no_row_of_a_batch_bears_on_another(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any method that comes with tpprof, on a model of each kind."""
    monkeypatch.setattr(contract, "CHECKS", {"batch": CHECKS["batch"]})
    kinds = [*LLAVA, ("llava-next", "anyres"), ("qwen2-vl", "flat")]
    found = list(findings(parse(name), kinds))  # type: ignore[arg-type]
    assert "batch" in {finding.check for finding in found}
    assert [finding for finding in found if finding.fault] == []


def test_a_plan_that_fails_is_told(tmp_path: Path) -> None:
    told = broken(tmp_path, "return request.nothing")
    assert "'Request' object has no attribute 'nothing'" in told["plan"]


def test_every_architecture_is_checked_or_cannot_run_it() -> None:
    found = list(findings(parse("tome")))
    assert {finding.model for finding in found} == {
        support.case_name(*case) for case in every_case()
    }
    unsupported = {finding.model for finding in found if finding.unsupported}
    assert unsupported == {
        "internvl",
        "llava-next, anyres",
        "llava-onevision",
        "qwen2-vl",
        "qwen2.5-vl",
        "qwen3-vl",
    }
    assert not any(finding.fault for finding in found)


def test_a_new_method_works_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = in_this_process("new-method", "My-Method.2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == ["my_method_2.py", "test_my_method_2.py"]
    for path in tmp_path.iterdir():
        compile(path.read_text(), path.name, "exec")
    monkeypatch.setattr(contract, "findings", functools.partial(contract.findings, cases=LLAVA))
    done = in_this_process("check", "My-Method.2", "--plugin", written[0], cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"holds: plan, {', '.join(CHECKS)}" in done.stdout
    assert in_this_process("new-method", "My-Method.2", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize("name", ["fastv", "2fast", "a b", "../up", "numpy", "glob", "time", "abc"])
def test_a_name_that_no_method_may_have(name: str, tmp_path: Path) -> None:
    done = in_this_process("new-method", name, cwd=tmp_path)
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert len(done.stderr.splitlines()) == 1


def test_a_scorer_is_told_where_it_counts(tmp_path: Path) -> None:
    path = tmp_path / "counts_none.py"
    path.write_text(
        "from dataclasses import dataclass\nfrom tpprof.methods import Scorer, register\n"
        "@register('counts-none')\n@dataclass(frozen=True)\nclass CountsNone(Scorer):\n"
        "    def score(self, view):\n        return (view.states @ view.states.mT).mean(-1)\n"
    )
    load_plugins([str(path)])
    faults = {finding.check: finding.fault for finding in findings(parse("counts-none"), LLAVA)}  # type: ignore[arg-type]
    assert "its flops(self, request) counts a sample (CountsNone.score, " in faults["FLOPs"]


def test_the_files_of_a_new_method_are_two() -> None:
    assert list(files("a.b-C")) == ["a_b_c.py", "test_a_b_c.py"]


def test_exit_code_1_where_it_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(method: object) -> Iterator[Finding]:
        return iter([Finding("llava", "batch", "it falls apart")])

    monkeypatch.setattr(contract, "findings", found)
    done = in_this_process("check", "fastv", cwd=tmp_path)
    assert done.returncode == 1
    assert "BROKEN batch: it falls apart" in done.stdout


def test_knobs_that_small_models_cannot_meet_are_no_fault_of_the_method(tmp_path: Path) -> None:
    done = in_this_process("check", "fastv:layer=20", cwd=tmp_path)
    assert (done.returncode, "BROKEN" in done.stdout) == (2, False)
    assert "llava                not checked: layer=20 does not exist here" in done.stdout
    assert "its knobs cannot be met on these models, of 8 layers" in done.stderr


def test_one_fault_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(method: object) -> Iterator[Finding]:
        return (Finding(model, "batch", "it falls apart") for model in ("llava", "qwen2-vl"))

    monkeypatch.setattr(contract, "findings", found)
    done = in_this_process("check", "fastv", cwd=tmp_path)
    assert done.stdout.count("it falls apart") == 1
    assert "qwen2-vl             BROKEN batch: the same" in done.stdout


def test_the_table_of_the_docs_is_what_plans_say() -> None:
    assert support.page() == support.PAGE.read_text(), "python -m tpprof.profiler.authoring.support"


EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs/methods.md").read_text(), re.DOTALL)
WHOLE = [text for text in EXAMPLES if "@register" in text]


@pytest.mark.parametrize("text", WHOLE, ids=lambda text: re.findall(r'register\("(.*)"', text)[0])
def test_the_examples_of_the_docs_keep_the_contract(tmp_path: Path, text: str) -> None:
    name = re.findall(r'register\("(.*)"', text)[0]
    path = tmp_path / "example.py"
    path.write_text(text)
    load_plugins([str(path)])
    found = list(findings(parse(name)))
    assert [finding for finding in found if finding.fault] == []
    assert any(finding.check == "batch" for finding in found)
