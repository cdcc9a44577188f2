"""How many operators choosing takes: few, but for what a loop repeats."""

from __future__ import annotations

import ast
import functools
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

import pytest
from micro_models import SIZE, load
from operator_counter import FREE
from torch.utils._python_dispatch import TorchDispatchMode

import tpprof
from tpprof import methods
from tpprof.profiler.authoring.micro import affordable

HOME = Path(methods.__file__).parent
MOST = 40
MORE = {"prunesid": 54, "sparsevlm": 52}
"""What calls more, and how many: groups and shares that the data makes; density peaks."""
PARTS = ("parts(", "_grouped(")  # for one part, as here, this is no loop


class _Beyond(TorchDispatchMode):
    """Counts operators, views aside, that no `for` of a method repeats; by the line of `decide`."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()
        self.repeated = 0
        self.stage = ""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if self.stage and not func.is_view and func._overloadpacket not in FREE:
            looped = _looped(sys._getframe(1))
            self.repeated += looped
            self.seen[self.stage] += not looped
        return func(*args, **(kwargs or {}))


def _looped(frame: FrameType | None) -> bool:
    """Whether it is called from inside a loop of a method, or of what methods share."""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        ours = path.is_relative_to(HOME) and "engine" not in path.parts
        if ours and any(frame.f_lineno in lines for lines in _loops(path)):
            return True
        frame = frame.f_back
    return False


@functools.cache
def _loops(path: Path) -> list[range]:
    """The lines that loops of a file repeat."""
    return [
        range(node.body[0].lineno, (node.end_lineno or 0) + 1)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.For) and not any(p in ast.unparse(node.iter) for p in PARTS)
    ]


def beyond(spec: str, architecture: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """The most operators of a decision beyond its loops, and all that loops repeat."""
    model, method = load(architecture), affordable(methods.parse(spec))
    try:
        inputs = tpprof.inputs(model, method=method, image_size=SIZE, layout="flat")
        method.plan(inputs.request)
    except methods.UnsupportedError as error:
        pytest.skip(str(error))
    solved: dict[str, float] = {}
    tpprof.forward(model, inputs, method, solved=solved)  # what is found out once, is
    counting, decide = _Beyond(), type(method).decide

    def counted(
        self: methods.Method, view: methods.View, stage: methods.Stage
    ) -> methods.Keep | None:
        counting.stage = str(stage.site)
        with counting:
            return decide(self, view, stage)

    monkeypatch.setattr(type(method), "decide", counted)
    tpprof.forward(model, inputs, method, solved=solved, verify=False)
    return max(counting.seen.values(), default=0), counting.repeated


@pytest.mark.parametrize("architecture", ["llava", "llava-next", "qwen2-vl"])
@pytest.mark.parametrize("name", methods.names())
def test_a_decision_calls_few_operators_beyond_its_loops(
    name: str, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, _ = beyond(name, architecture, monkeypatch)
    assert seen <= MORE.get(name, MOST)


@pytest.mark.parametrize("name", ["dart", "divprune", "cdpruner", "vispruner", "prunesid", "holov"])
def test_loops_are_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert beyond(name, "llava", monkeypatch)[1] > 0
