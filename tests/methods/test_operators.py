"""How many operators choosing takes: few, but for what a loop repeats."""

from __future__ import annotations

import ast
import functools
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

import pytest
from micro_models import VIDEO, load, shown
from operator_counter import FREE
from torch.utils._python_dispatch import TorchDispatchMode

import tpprof
from tpprof import methods
from tpprof.profiler.authoring.micro import affordable

HOME = Path(methods.__file__).parent
MOST = 40
TOWER, BEFORE = "tower layer 2", "before the decoder"
MORE = {
    ("prunesid", TOWER): 54,
    ("prunesid", BEFORE): 52,
    ("fastvid", BEFORE): 107,
    ("flashvid", BEFORE): 149,
}
"""What calls more, where, and how many: chains of steps, each on what the one before it gives.

PruneSID: components 7, who suppresses whom 14, ranks 4, survivors of each group 4, their shares 8,
the bound that is raised until the budget is met 6, the choice 6; then the order and the class token
5 in the tower, 3 without one. FastVID: what is seen 8, scenes 11, density peaks 27, quotas 14,
targets 8, what each is given 21 (15 without M-RoPE), means 10, the order 7. FlashVID: scenes 11,
what is chosen 20 (13 by attention alone), trees 40, quotas 21, density peaks 27, clusters 21, the
order 7, with a newline behind the video 8. For both 1 more where text stands between frames.
"""
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


def beyond(
    spec: str, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[Counter[str], int]:
    """The operators of each decision beyond its loops, by site, and all that loops repeat."""
    model, method = load(architecture), affordable(methods.parse(spec))
    try:
        inputs = tpprof.inputs(model, method=method, layout="flat", **shown(model, method))
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
    return counting.seen, counting.repeated


CASES = [(name, each) for name in methods.names() for each in ("llava", "llava-next", "qwen2-vl")]
CASES += [
    (name, each)
    for name in VIDEO
    for each in ("qwen2.5-vl", "qwen3-vl", "internvl", "llava-onevision")
]


@pytest.mark.parametrize(("name", "architecture"), CASES)
def test_a_decision_calls_few_operators_beyond_its_loops(
    name: str, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, _ = beyond(name, architecture, monkeypatch)
    for site, count in seen.items():
        assert count <= MORE.get((name, site), MOST), site


@pytest.mark.parametrize(
    ("spec", "architecture", "site"),
    [
        ("prunesid", "llava", TOWER),
        ("prunesid", "qwen2-vl", BEFORE),
        ("fastvid", "qwen3-vl", BEFORE),
        ("flashvid", "llava-onevision", BEFORE),
    ],
)
def test_what_calls_more_calls_no_fewer(
    spec: str, architecture: str, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert beyond(spec, architecture, monkeypatch)[0][site] == MORE[spec.partition(":")[0], site]


@pytest.mark.parametrize("name", ["dart", "divprune", "cdpruner", "vispruner", "prunesid", "holov"])
def test_loops_are_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert beyond(name, "llava", monkeypatch)[1] > 0
