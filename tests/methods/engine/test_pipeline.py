"""Decoder layers over several devices, against one: on devices that only say so, which refuse what
two GPUs refuse."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from micro_models import MICRO, SIZE, affordable, sharpen, shown
from placed_tensors import MOVED, Devices, Placed

from tpprof import methods
from tpprof.methods.contract.policies import Policy
from tpprof.methods.engine.decoder import Inputs
from tpprof.methods.engine.run import Trace, run
from tpprof.profiler.models.load import load
from tpprof.profiler.models.model import Model
from tpprof.profiler.models.shapes import Shape
from tpprof.profiler.workload import Preparation
from tpprof.reports.record.spec import Workload

DEVICES = tuple(torch.device("cpu", index) for index in range(3))
ROWS: tuple[Policy, ...] = ("rows",)
POLICIES: dict[str, tuple[Policy, ...]] = {"llava-next": ("rows", "maps", "published")}
"""Other than rows: what differs by policy differs in the engine."""


def both(shape: Shape) -> tuple[Model, Model]:
    """A model on one device, and the same over three."""
    whole = load(shape, device="cpu", dtype="float32", seed=1)
    with Devices():
        laid = load(shape, dtype="float32", seed=1, pipeline=DEVICES)
        sharpen(laid)
    sharpen(whole)
    return whole, laid


@pytest.fixture(scope="module", params=MICRO)
def pair(request: pytest.FixtureRequest) -> tuple[Model, Model]:
    return both(MICRO[request.param])


def over_devices(laid: Model, inputs: Inputs, method: methods.Method, policy: Policy) -> Trace:
    with Devices():
        return run(laid, inputs.to(DEVICES[0]), method, attention=policy)


def difference(whole: Trace, laid: Trace) -> str:
    if [kept.tolist() for kept in whole.kept] != [kept.tolist() for kept in laid.kept]:
        return "keeps other tokens"
    for one, other in ((whole.logits, laid.logits), (whole.step_logits, laid.step_logits)):
        assert isinstance(other, Placed)
        if not torch.allclose(one, other.own, rtol=1e-4, atol=1e-5):
            return "gives other logits"
    return "" if whole.kv_bytes == laid.kv_bytes else "holds other KV bytes"


def test_logits_tokens_and_caches_are_those_of_one_device(pair: tuple[Model, Model]) -> None:
    whole, laid = pair
    architecture = whole.shape.architecture.name
    wrong, ran = {}, 0
    for spec in methods.names():
        method = affordable(methods.parse(spec))
        try:
            given = {**shown(whole, method), "image_size": (SIZE,)}
            inputs = Preparation(whole, Workload(**given, new_tokens=3)).resized(method)()
            reads = any(stage.rows for stage in method.plan(inputs.request).stages)
            for policy in POLICIES.get(architecture, ROWS) if reads else ROWS:
                told = difference(
                    run(whole, inputs, method, attention=policy),
                    over_devices(laid, inputs, method, policy),
                )
                wrong.update({(spec, policy): told} if told else {})
                ran += 1
        except methods.UnsupportedError:
            continue
    assert wrong == {}
    assert ran > 10


def test_what_acts_behind_a_step_has_what_was_read_before_it() -> None:
    """Several pictures, a batch, and stages in each layer about the steps between the devices."""
    whole, laid = both(MICRO["qwen3-vl"])
    first = laid.devices.index(DEVICES[1])
    workload = Workload(image_size=(SIZE, SIZE), batch_size=2, new_tokens=3)
    inputs = Preparation(whole, workload)()
    for layer in range(max(1, first - 1), first + 2):
        method = methods.parse(f"fastv:layer={layer},keep=8")
        MOVED.clear()
        assert not difference(
            run(whole, inputs, method), over_devices(laid, inputs, method, "rows")
        )
        assert MOVED["cpu:0", "cpu:1"] >= 3  # states, cosines and sines; in decode, the states
        assert MOVED["cpu:0", "cpu:2"] == 2  # the rotary tables of decode, once a request


@dataclass(frozen=True)
class Astride(methods.Method):
    """Looks at the layer behind a step before it runs, prunes by the one before it, and takes the
    pruned ones out of the cache of the first."""

    name: ClassVar[str] = "astride"
    layer: int = 1

    def plan(self, request: methods.Request) -> methods.Plan:
        ahead = methods.Rows("last", of="next")
        return methods.Plan(
            [
                methods.Stage(methods.Leaving(self.layer - 1), request.visual, reads=ahead),
                methods.Stage(methods.Entering(self.layer), 8, reads=methods.Rows("last")),
            ],
            compressed=range(1),
        )

    def decide(self, view: methods.View, stage: methods.Stage) -> methods.Keep | None:
        if isinstance(stage.site, methods.Leaving):
            view.set_tag("ahead", view.rows[:, 0])
            return None
        return methods.top(view.rows[:, 0] + view.tag("ahead"), 8)


def test_what_is_read_on_both_sides_of_a_step_comes_together() -> None:
    whole, laid = both(MICRO["llava"])
    method = Astride(layer=laid.devices.index(DEVICES[1]))
    inputs = Preparation(whole, Workload(image_size=(SIZE,), new_tokens=2))()
    assert not difference(run(whole, inputs, method), over_devices(laid, inputs, method, "rows"))


def test_a_tied_head_is_where_the_embedding_is() -> None:
    shape = MICRO["llava"]
    tied = dataclasses.replace(shape, text=dataclasses.replace(shape.text, tied=True))
    config = type(tied.architecture).config
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(tied.architecture), "config", _tied(config))
        whole, laid = both(tied)
    assert (laid.devices[-1], laid.head_device) == (DEVICES[-1], DEVICES[0])
    inputs, method = Preparation(whole, Workload(new_tokens=3))(), methods.parse("fastv:keep=4")
    laps: list[tuple[str, str]] = []

    def lap(phase: str, part: str, index: int | None = None) -> None:
        laps.append((phase, part))

    with Devices():
        own = run(laid, inputs.to(DEVICES[0]), method, lap=lap)
    assert not difference(run(whole, inputs, method), own)
    assert laps.count(("prefill", "move")) == 4  # each step ends on both of its sides
    assert laps.count(("head", "move")) == 2


def _tied(config: object) -> object:
    def made(self: object, shape: Shape) -> object:
        given = config(self, shape)  # type: ignore[operator]
        given.tie_word_embeddings = given.text_config.tie_word_embeddings = True
        return given

    return made


def test_a_tensor_that_was_left_behind_is_seen() -> None:
    """The devices of these tests do refuse."""
    with Devices():
        here, there = torch.ones(2, device=DEVICES[0]), torch.ones(2, device=DEVICES[1])
        with pytest.raises(RuntimeError, match="cpu:0', 'cpu:1"):
            here + there
        with pytest.raises(RuntimeError, match="the host"):
            here + torch.ones(2)
        assert (here + there.to(DEVICES[0])).device == DEVICES[0]
