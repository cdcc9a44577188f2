"""Plug-ins that are wrong on purpose: each is told what is wrong, where, and what is expected."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import in_this_process
from micro_models import SIZE, load
from record_builders import record

import tpprof
from tpprof.methods import InputError, load_plugins
from tpprof.methods.contract import registry
from tpprof.profiler.run.bench import Bench, steady
from tpprof.profiler.run.cells import make_cells
from tpprof.profiler.workload import Preparation
from tpprof.reports.analysis import caveats
from tpprof.reports.record.schema import Cell
from tpprof.reports.record.spec import Workload

THREAD = (
    "import threading, _thread, time, concurrent.futures; wait = lambda: time.sleep(3); "
    "pool = concurrent.futures.ThreadPoolExecutor(1); {}; pools.append(pool); return kept(9)"
)
SOURCE = """
import math, os, sys, torch
from dataclasses import dataclass
from tpprof.methods import (
    Budget, Entering, InputError, Keep, Keys, Leaving, Method, Plan, Projected, Published,
    Rows, Scorer, Stage, Tower, knob, register, top,
)

seen, pools = [], []

def kept(n):
    return Keep(torch.arange(n)[None])

@register("wrong")
@dataclass(frozen=True)
class Wrong(Method):
    '''Wrong in one way.'''

    def plan(self, request):
        {plan}

    def decide(self, view, stage):
        seen.append(stage)
        {select}
"""
PLAN = "return Plan([Stage(Entering(2), 9)])"
SELECT = "return kept(9)"
Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a plug-in, as a whole or by its parts, whose methods are known to this test alone."""
    registry.names()
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))

    def written(plan: str = PLAN, select: str = SELECT, source: str = SOURCE) -> str:
        path = tmp_path / "wrong.py"
        path.write_text(source.format(plan=plan, select=select))
        return str(path)

    return written


def measured(plugin: str, *, model: str = "llava", samples: int = 1, **options: Any) -> Cell:
    """The row of the plug-in's method, measured with all passes, beside another one."""
    load_plugins([plugin])
    loaded = load(model)
    workload = Workload(**{"image_size": SIZE, "text_tokens": (4, 3), **options})
    listed = [tpprof.methods.parse("wrong"), tpprof.methods.parse("random")]
    _, cell, other = make_cells(listed, ["rows"], ["eager"], Preparation(loaded, workload))
    with Bench(loaded.device) as bench:
        assert not other.saved.error
        if cell.alive:
            bench.warm_up(cell)
        for number in range(samples if cell.alive else 0):
            bench.sample(cell, number, 0, 0)
        for measure in (bench.decisions, bench.flops, bench.activity):
            if cell.alive:
                measure(cell)
    return cell.saved


def failure(plugin: str, **options: Any) -> str:
    """Why the row failed."""
    return measured(plugin, **options).error


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import sys\nsys.exit(0)", "would end the program (SystemExit)"),
        ("raise SystemExit(3)", ", line 1)"),
        ("import os, tempfile\nos.chdir(tempfile.gettempdir())", "changes the working folder"),
        ("1 / 0", "ZeroDivisionError: division by zero, line 1)"),
        ("def f(:", "SyntaxError"),
        ("from tpprof.methods import register\n@register('wrong')\nclass A: pass", "is no method"),
        ("from tpprof.methods import register\n@register('wrong')\ndef f(): pass", "is no method"),
        ("from tpprof.methods import register\nregister(7)", "7 is no name of a method"),
        ("from tpprof.methods import register\nregister('a:b')", "'a:b' is no name of a method"),
        ("from tpprof.methods import register\nregister('')", "'' is no name of a method"),
        (
            "from tpprof.methods import Method, register\n@register\nclass A(Method): pass",
            'write @register("name")',
        ),
        (
            "from tpprof.methods import *\n@register('fastv')\nclass A(Method): pass",
            "already registered by tpprof.methods.fastv: choose another name",
        ),
        (
            "from dataclasses import dataclass\nfrom tpprof.methods import Method\n"
            "@dataclass\nclass A(Method): pass",
            "write @dataclass(frozen=True) above it",
        ),
    ],
)
def test_a_plugin_that_cannot_be_loaded(write: Write, source: str, told: str) -> None:
    folder = os.getcwd()
    with pytest.raises(InputError) as caught:
        load_plugins([write(source=source)])
    assert told in str(caught.value)
    assert "could not be loaded" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert os.getcwd() == folder


@pytest.mark.parametrize(
    ("source", "noted"),
    [
        ("x = 1", True),
        ("from tpprof.methods import Method\nclass A(Method): pass", True),
        ("import torch\ntorch.nn.functional.silu", True),
        ("from tpprof.methods import *\n@register('mine')\nclass A(Method): pass", False),
    ],
)
def test_a_plugin_that_registers_no_method_is_said_to(
    write: Write, source: str, noted: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plugin = write(source=source)
    said = in_this_process("flops", "fastv", "--plugin", plugin, cwd=tmp_path)
    assert ("registers no method (@register)" in said.stderr) is noted
    assert said.returncode == 0
    assert load_plugins([plugin]) == []


LEAVES_BEHIND = {
    "import gc; gc.enable(); return kept(9)": "changes the collection of garbage (gc)",
    "import gc; gc.set_threshold(7); return kept(9)": "changes the collection of garbage (gc)",
    THREAD.format("threading.Thread(target=wait, daemon=True).start()"): "leaves 1 thread running",
    THREAD.format("_thread.start_new_thread(wait, ())"): "running (wrong.py line ",
    THREAD.format("pool.submit(len, '').result()"): "leaves 1 thread running (",
    THREAD.format("t = threading.Thread(target=len, args='x'); t.start(); t.join()"): "",
}


@pytest.mark.parametrize("select", LEAVES_BEHIND)
def test_what_goes_on_after_a_request_is_noticed(write: Write, select: str) -> None:
    with steady():
        told = failure(write(select=select))
    assert LEAVES_BEHIND[select] in told if LEAVES_BEHIND[select] else not told


KNOBS = """
from dataclasses import dataclass
from tpprof.methods import Method, knob, register

@register("wrong")
{decorator}
class Wrong(Method):
    '''Wrong in one way.'''
    {knob}

    def __post_init__(self):
        {check}
"""


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"decorator": "", "knob": "keep: int = knob(3, 'x')"}, "write @dataclass(frozen=True)"),
        ({"check": "raise TypeError('no idea')"}, "it cannot be made (TypeError: no idea)"),
        ({"check": "self.keep.nothing"}, "no attribute 'keep') (wrong.py line 12)"),
        ({"check": "raise SystemExit"}, "would end the program"),
    ],
)
def test_a_method_that_cannot_be_made(write: Write, parts: dict[str, str], told: str) -> None:
    given = {"decorator": "@dataclass(frozen=True)", "knob": "", "check": "pass", **parts}
    load_plugins([write(source=KNOBS.format(**given).replace("{", "{{").replace("}", "}}"))])
    with pytest.raises(InputError) as caught:
        tpprof.methods.parse("wrong")
    assert told in str(caught.value)


def stages(*listed: str, **plan: str) -> str:
    more = "".join(f", {key}={value}" for key, value in plan.items())
    return f"return Plan(({''.join(s + ', ' for s in listed)}){more})"


STAGE = "Stage(Entering(2), 9)"
PLANS = {
    "Plan()": "is a return forgotten?",
    "return 5": "it is a int and no Plan",
    "raise SystemExit(0)": "would end the program (SystemExit)",
    "os.chdir('/'); " + PLAN: "changes the working folder",
    "return request.nothing": "AttributeError: 'Request' object has no attribute 'nothing'",
    "raise InputError('not today')": "not today",
    stages(STAGE, note="5"): "its note is 5 and no text",
    stages("2"): "is no tuple of Stage",
    stages("Stage(2, 9)"): "its site is 2; known: Tower, Projected, Entering, Leaving",
    stages("Stage(Entering(99), 9)"): "acts at layer 99, and the decoder has layers 0 to 7",
    stages("Stage(Entering(-1), 9)"): "acts at layer -1",
    stages("Stage(Entering(2.0), 9)"): "acts at layer 2.0, which is no whole number",
    stages("Stage(Entering(2), 9, 'last')"): "reads 'last' on entering layer 2; known: Rows(",
    stages("Stage(Entering(2), 9, Rows('all'))"): "rows 'all' on entering layer 2; known: last, ",
    stages("Stage(Entering(2), 9, Rows('last', heads='some'))"): "heads 'some' on entering layer 2",
    stages("Stage(Entering(2), 9, (Rows('last'), Rows('text')))"): "reads rows or keys twice",
    stages("Stage(Entering(2), 9, (Rows('last'), Keys('next')))"): "it reads of two layers",
    stages("Stage(Entering(2), 9, Rows('last', of='own'))"): "of the 'own' layer on entering lay",
    stages("Stage(Entering(0), 9, Rows('last'))"): "no layer comes before that",
    stages("Stage(Leaving(7), 9, Keys('next'))"): "no layer comes after that",
    stages("Stage(Projected(), 9, Rows('last'))"): "reads attention before the decoder",
    stages("Stage(Projected(), 99)"): "tokens is 99 before the decoder, and only 36 are left",
    stages("Stage(Projected(), 0)"): "tokens is 0 before the decoder",
    stages("Stage(Entering(2), 0)", "Stage(Entering(4), 0)"): "no visual token is left by then",
    stages("Stage(Entering(2), -4)"): "tokens is -4",
    stages("Stage(Entering(2), 9.5)"): "tokens is 9.5",
    stages("Stage(Entering(2), 99)"): "tokens is 99 on entering layer 2, and only 36 are left",
    stages(STAGE, "Stage(Leaving(4), 12)"): "tokens is 12 on leaving layer 4, and only 9 are",
    stages("Stage(Entering(4), 9)", STAGE): "not in the order of the forward pass (entering ",
    stages("Stage(Leaving(2), 9)", STAGE): "not in the order of the forward pass",
    stages(STAGE, "Stage(Tower(2), 9)"): "not in the order of the forward pass",
    stages(
        "Stage(Leaving(2), 9, Rows('last'))", "Stage(Entering(3), 7, Rows('text'))"
    ): "two stages read the attention of layer 2 of the decoder",
    stages(
        "Stage(Leaving(3), 9)", "Stage(Entering(4), 7, Keys())"
    ): "reads the attention of layer 3 of the decoder at entering layer 4, and drops tokens before",
    stages("Stage(Entering(4), 9)", "Stage(Entering(4), 7, Rows('last'))"): "read there as well",
    stages(
        "Stage(Tower(1, inside=True), 9)", "Stage(Tower(1), 9, Rows('cls'))"
    ): "reads the attention of layer 1 of the vision tower at tower layer 1, and drops tokens",
    stages(
        STAGE, published="Published(tower_maps=range(99))"
    ): "published.tower_maps names range(0, 99), and the vision tower has layers 0 to 3",
    stages(
        STAGE, published="Published(tower_maps=[1])"
    ): "published.tower_maps is [1] and no range",
    stages("Stage(Entering(2), 9, flops=-1)"): "its FLOPs are -1",
    stages("Stage(Entering(2), 9, flops=float('nan'))"): "its FLOPs are nan",
    stages("Stage(Entering(2), 9, published_flops=-7)"): "its FLOPs are -7",
    stages("Stage(Entering(2), 9, flops=10**30)"): "from 0 to 10^18",
    stages("Stage(Entering(2), 9, launches=-3)"): "launches is -3 on entering layer 2",
    stages(STAGE, positions="'moved'"): "positions 'moved'; known: keep, compact",
    stages(STAGE, compressed="range(2, 99)"): "compressed names range(2, 99)",
    stages(STAGE, published="True"): "published is True and no Published",
    stages(STAGE, proportional="2"): "proportional is 2; known: True, False",
    stages("Stage(Tower(9), 9)"): "the vision tower has layers 0 to 3",
    stages("Stage(Tower(1), 99)"): "only 36 are left",
    stages("Stage(Tower(3), 9)"): "the output of layer 2 (vision_feature_layer)",
    stages("Stage(Tower(1), 9, Rows('text'))"): "rows 'text' at layer 1 of the vision",
    stages("Stage(Tower(1), 9, Keys('next'))"): "of the 'next' layer at layer 1 of the vision",
}


@pytest.mark.parametrize("plan", PLANS)
def test_a_plan_that_does_not_fit_is_a_row_with_the_reason(write: Write, plan: str) -> None:
    folder = os.getcwd()
    told = failure(write(plan))
    assert PLANS[plan] in told
    assert "wrong.py line " in told or "not today" in told
    assert os.getcwd() == folder


@pytest.mark.parametrize(
    ("missing", "told"),
    [("plan", "it has no plan: define plan("), ("decide", "the method no decide")],
)
def test_without_a_plan_or_a_decision(write: Write, missing: str, told: str) -> None:
    assert told in failure(write(source=SOURCE.replace(f"def {missing}(", "def other(")))


UNSAID = """
class Unsaid({kind}):
    def __str__(self):
        raise OSError
"""


@pytest.mark.parametrize("kind", ["Exception", "InputError"])
@pytest.mark.parametrize("where", ["plan", "select"])
def test_an_error_that_cannot_say_what_it_is_is_a_row_all_the_same(
    write: Write, kind: str, where: str
) -> None:
    source = SOURCE.replace("seen, pools", UNSAID.format(kind=kind) + "seen, pools")
    told = failure(write(source=source, **{where: "raise Unsaid"}))
    assert "(its message raises OSError)" in told
    assert "wrong.py line" in told


def test_where_no_method_can_be_measured_nothing_is(write: Write) -> None:
    with pytest.raises(InputError, match=r"wrong: planning failed: .*wrong.py line"):
        tpprof.compare("wrong", model=load("llava"), plugin=[write("return None")], rounds=1)


def test_where_another_method_can_be_measured_it_is(write: Write) -> None:
    found = tpprof.compare(
        ["wrong", "random:keep=999", "random"],
        model=load("llava"),
        plugin=[write("sys.exit(0)")],
        rounds=1,
        visual_tokens=36,
    )
    vanilla, wrong, much, random = found.cells
    assert "would end the program" in wrong.error
    assert "keep=999 means 999 visual tokens" in much.error
    assert len(vanilla.samples) == len(random.samples) == 1
    assert "2 of 4 cells failed" in caveats.warnings(found)[0]


INFINITE = "s = view.states.norm(dim=-1); s{}; return {}"
ARGSORT = "Keep(s.argsort(-1)[:, :9].sort(-1).values)"
SMALLEST = "Keep(s.topk(9, -1, largest=False).indices.sort(-1).values)"
DECISIONS = {
    "kept(9)": "is a return forgotten?",
    "return kept(9).index": "it returns a Tensor, not a Keep",
    "return kept(10)": "it keeps 10 visual tokens, where 9 are planned",
    "return kept(8)": "it keeps 8 visual tokens",
    "return Keep(torch.arange(9)[None] // 2)": "not in ascending order, each token once",
    "return Keep(torch.arange(9).flip(0)[None])": "not in ascending order",
    "return Keep(torch.arange(28, 37)[None])": "reaches from 28 to 36, of visual tokens 0 to 35",
    "return Keep(torch.arange(9, device='meta')[None])": "its index is on meta",
    "return Keep(torch.arange(9)[None], view.states[:, :9].to('meta'))": "features are on meta",
    "return Keep(torch.arange(9)[None], view.states[:, :9].double())": "float64 [1, 9, 64], not",
    "return Keep(torch.arange(9)[None], view.states[:, :9] / 0)": "features are not finite",
    "return Keep(torch.arange(9)[None], [1])": "its features are a list",
    "return Keep(torch.arange(9)[None], flops=-3)": "its FLOPs are -3",
    "return Keep(torch.arange(9)[None], flops=float('nan'))": "its FLOPs are nan",
    "return top(view.states.norm(dim=-1) * float('nan'), 9)": "36 scores that it ranks are not",
    "return top(view.states.norm(dim=-1) / 0, 9)": "36 scores that it ranks are infinite",
    "return top(view.states.norm(dim=-1) / -0.0, 9)": "36 scores that it ranks are infinite",
    INFINITE.format("[:, 5:] = -math.inf", "top(s, 9)"): "31 scores that it ranks are infinite",
    INFINITE.format("[:, 5:] = math.inf", "top(s, 9)"): "31 scores that it ranks are infinite",
    INFINITE.format("[:] = math.inf", ARGSORT): "36 scores that it ranks are infinite",
    INFINITE.format("[:, 9:] = math.inf", SMALLEST): "",
    INFINITE.format("[:, 9:] = -math.inf", "top(s, 9)"): "",
    INFINITE.format("[:, :3] = math.inf", "top(s, 9)"): "",
    INFINITE.format("[:, 8:] = math.inf", SMALLEST): "28 scores that it ranks are infinite",
    "view.hidden[:, -1] = 0; return kept(9)": "writes to the hidden states of its view",
    "view.original[:] = 0; return kept(9)": "writes to the origins of the tokens of its view",
    "view.rotary[0].mul_(0.5); return kept(9)": "writes to the cosines of its view",
    "view.set_tag('a', view.original, newline=math.inf); return kept(9)": "a newline cannot be inf",
    "view.notes.solved['x'] = 'much'; return kept(9)": "solved 'x' as 'much', which is no finite",
    "raise SystemExit(0)": "it would end the program (SystemExit): return, or raise an error",
    "sys.exit()": "it would end the program",
    "os.chdir('/'); return kept(9)": "it changes the working folder of the program (os.chdir)",
    "return kept(view.nothing)": "'View' object has no attribute 'nothing' (wrong.py line ",
    "return kept(view.rows.shape[0])": (
        "the plan asked for no attention rows at entering layer 2: Stage(..., reads=Rows(...))"
    ),
}


@pytest.mark.parametrize("select", DECISIONS)
def test_a_decision_that_does_not_fit_is_a_row_with_the_reason(write: Write, select: str) -> None:
    folder = os.getcwd()
    told = failure(write(select=select))
    assert DECISIONS[select] in told if DECISIONS[select] else not told
    assert os.getcwd() == folder


CHANGING = "return Keep({})"
FEATURES = "return Keep(torch.arange(9)[None], view.states[:, :9].flip(1) * ({}))"
LATE = {
    "return kept(9 + (len(seen) > 3))": "visual tokens entering the decoder layers were 9 at first",
    "return Keep(torch.arange(9)[None], flops=len(seen))": "FLOPs of its decisions were 3 at first",
    "sys.exit() if len(seen) > 3 else 0; return kept(9)": "would end the program",
    "os.chdir('/' if len(seen) > 3 else '.'); return kept(9)": "changes the working folder",
    "return Keep(torch.arange(9)[None] // (1 + (len(seen) > 3)))": "keeps other visual tokens",
    "return Keep(torch.arange(9)[None] // (1 + (len(seen) > 7)))": "not in ascending order",
    CHANGING.format("torch.arange(9)[None] + len(seen) % 5 * (len(seen) > 2)"): "other visual tok",
    CHANGING.format("torch.arange(9)[None] + (len(seen) > 4)"): "other visual tokens than the fir",
    FEATURES.format("1 + 5 * (len(seen) > 4)"): "a timed request gives other logits than the first",
    "return None if len(seen) > 7 else kept(9)": "is a return forgotten?",
    "return None if len(seen) > 8 else kept(9)": "entering the decoder layers were 9 at first",
}


@pytest.mark.parametrize("select", LATE)
def test_what_goes_wrong_from_the_fourth_request_on_is_caught(write: Write, select: str) -> None:
    assert LATE[select] in failure(write(select=select), samples=4)


def test_a_plan_that_changes_from_call_to_call(write: Write) -> None:
    plan = "seen.append(0); return Plan([Stage(Entering(2), len(seen))])"
    assert "it keeps 9" in failure(write(plan)) or "plan changes" in failure(write(plan))


TOWER = "return Plan([Stage(Tower({layer}), {tokens}, {reads})])"


@pytest.mark.parametrize("layer", [0, 3])
@pytest.mark.parametrize("tokens", ["9", "None"])
@pytest.mark.parametrize(
    ("model", "options", "why"),
    [
        ("qwen2-vl", {}, "its merger joins neighbours on their grid"),
        ("llava-next", {"layout": "anyres"}, "the layout sets them on a grid, with newlines"),
    ],
)
def test_tokens_that_cannot_be_dropped_in_the_tower(
    write: Write, model: str, options: dict[str, Any], why: str, tokens: str, layer: int
) -> None:
    plan = TOWER.format(layer=layer, tokens=tokens, reads=())
    told = failure(write(plan, select="return kept(9)"), model=model, **options)
    assert f"tokens cannot be dropped in this vision tower, for {why}" in told
    assert "wrong.py line " in told


def test_a_tower_without_a_class_token(write: Write) -> None:
    plan = TOWER.format(layer=2, tokens="request.encoder.patches", reads="Rows('cls')")
    assert "class token at layer 2" in failure(write(plan), model="qwen2-vl")


SCORER = """
import torch
from dataclasses import dataclass
from tpprof.methods import Scorer, register

@register("wrong")
@dataclass(frozen=True)
class Wrong(Scorer):
    def score(self, view):
        {select}
"""


@pytest.mark.parametrize(
    ("score", "told"),
    [
        ("view.states.norm(dim=-1)", "the score is NoneType (is a return forgotten?)"),
        ("return view.states.norm(dim=-1).numpy()", "the score is ndarray"),
        ("return view.states.norm(dim=-1)[:, :20]", "the score is float32 [1, 20]"),
        ("return view.states.norm(dim=-1)[0]", "the score is float32 [36]"),
        ("return view.states", "the score is float32 [1, 36, 64]"),
        ("return view.states[..., 0] > 0", "the score is bool [1, 36]"),
        ("return view.states[..., 0] * 1j", "the score is complex64 [1, 36]"),
    ],
)
def test_a_score_that_is_none_says_what_is_expected(write: Write, score: str, told: str) -> None:
    said = failure(write(select=score, source=SCORER))
    assert told in said
    assert "wanted is a floating or whole number for each visual token, [1, 36]" in said
    assert "(Wrong.score, wrong.py line 9)" in said


def test_what_a_method_prints_is_not_the_programs_output(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    assert failure(write(select=f"print('here'); {SELECT}")) == ""
    printed = capsys.readouterr()
    assert "here" not in printed.out
    assert "here" in printed.err


def test_a_tower_stage_without_a_tower(write: Write) -> None:
    options = {"visual_tokens": 36, "image_size": None}
    plan = TOWER.format(layer=2, tokens="36", reads=())
    assert "in the vision tower, and this request has none" in failure(write(plan), **options)


def test_merging_in_a_tower_on_a_grid_keeps_its_count(write: Write) -> None:
    plan = TOWER.format(layer=2, tokens="request.encoder.patches", reads=())
    merge = "return Keep(torch.arange(view.count)[None], view.states * 0.5)"
    assert failure(write(plan, select=merge), model="qwen2-vl") == ""


def test_tags_that_fit_no_token(write: Write) -> None:
    plan = TOWER.format(layer=2, tokens="36", reads=())
    tagging = "view.set_tag('keys', torch.ones(1, 5, dtype=torch.bool))"
    assert "tag 'keys' is bool [1, 5], not [1, 36]" in failure(write(plan, select=tagging))


def warned(plugin: str, word: str) -> list[str]:
    cell = measured(plugin)
    assert not cell.error
    return [line for line in caveats.warnings(record(cell)) if word in line]


@pytest.mark.parametrize(
    ("waits", "times"),
    [
        ("[view.states[0, n, 0].item() for n in range(5)]", 5),
        ("[bool(flag) for flag in view.states[0, :6, 0] > 0]", 6),
        ("view.states.tolist()", 1),
        ("view.states[0].cpu().numpy()", 2),
        ("view.states.to('cpu'), view.states.to(device=torch.device('cpu'))", 2),
        ("torch.repeat_interleave(torch.ones_like(view.original[0]))", 1),
        ("(view.states[..., 0] > 0).nonzero(), torch.where(view.states[..., 0] > 0)", 2),
        ("view.states[view.states > 0], view.states.masked_select(view.states > 0)", 2),
        ("torch.unique(view.states), float(view.states.sum()), int(view.states.sum())", 3),
    ],
)
def test_a_wait_for_the_device_is_told_on_a_cpu_too(write: Write, waits: str, times: int) -> None:
    (line,) = warned(write(select=f"{waits}; {SELECT}"), "wait for a value")
    assert f"wrong {times} times a request (wrong.py line 24: {times})" in line


def test_a_method_that_waits_for_nothing_is_not_warned_of(write: Write) -> None:
    assert warned(write(), "wait for a value") == []
    known = "torch.repeat_interleave(torch.ones_like(view.original[0]), output_size=view.count)"
    assert warned(write(select=f"{known}; view.states.to(torch.float64); {SELECT}"), "wait") == []
    assert warned(write(), "FLOPs") == []


PRODUCT = "view.states[0] @ view.states[0].T"  # 2 * 36 * 36 * 64 = 165,888 FLOPs


@pytest.mark.parametrize(
    ("declared", "computed", "parts"),
    [
        (0, PRODUCT, ("as 0 FLOPs, and torch counted 165,888,", "too little")),
        (488, PRODUCT, ("as 488 FLOPs, and torch counted 165,888 (339.9x)", "too little")),
        (165_887, PRODUCT, ("165,887 FLOPs, and torch counted 165,888 (1x)", "too little")),
        (165_888 * 340, PRODUCT, ("torch counted 165,888 (0.002941x)", "too much")),
        (7, "0", ("as 7 FLOPs, and torch counted 0,", "too much", "torch sees nothing")),
        (0, "view.states[0] @ view.hidden[0, 0]", ("torch counted 4,608,", "too little")),
    ],
)
def test_flops_that_are_declared_wrong_are_told(
    write: Write, declared: int, computed: str, parts: tuple[str, ...]
) -> None:
    plan = stages(f"Stage(Entering(2), 9, (), {declared})")
    (line,) = warned(write(plan, select=f"{computed}; {SELECT}"), "torch counted")
    assert line.startswith("wrong: its decisions are declared")
    for part in parts:
        assert part in line


def test_flops_that_are_declared_right_are_not(write: Write) -> None:
    plan = stages("Stage(Entering(2), 9, (), 165888)")
    assert warned(write(plan, select=f"{PRODUCT}; {SELECT}"), "torch counted") == []


@pytest.mark.parametrize(
    ("computed", "operator"),
    [
        ("torch.cdist(view.states, view.states)", "aten._euclidean_dist"),
        ("torch.cdist(view.states, view.states, 1.0)", "aten._cdist_forward"),
        (
            "torch.nn.functional.bilinear(view.states, view.states, torch.ones(2, 64, 64))",
            "aten._trilinear",
        ),
    ],
)
def test_an_operator_that_torch_does_not_count_is_named(
    write: Write, computed: str, operator: str
) -> None:
    plan = stages("Stage(Entering(2), 9, (), 165888)")
    first, second = warned(write(plan, select=f"{computed}; {SELECT}"), operator)
    assert f"too much, and so does the table, or torch does not count {operator}" in first
    assert second.startswith(f"torch counts no FLOPs of {operator} in wrong:")


def test_what_only_looks_like_a_product_is_not_named(write: Write) -> None:
    select = "torch.nn.functional.interpolate(view.states, 8, mode='linear')"
    assert warned(write(select=f"{select}; {SELECT}"), "torch counts no FLOPs") == []


def test_flops_of_the_tower_that_the_data_tells_are_counted(write: Write) -> None:
    plan = TOWER.format(layer=2, tokens="36", reads=())
    product = "view.states[0] @ view.states[0].T; return Keep(torch.arange(36)[None], flops=124416)"
    assert warned(write(plan, select=product), "torch counted") == []
