"""What a callable is, what is read of its cache, and what it returned."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tpprof.profiler.probe.caches import layer_bytes
from tpprof.profiler.probe.target import Target, TargetError, find
from tpprof.profiler.probe.watched import parts_of, watching
from tpprof.profiler.probe.worker import Worker, form_of, no_lap, tensors_in

KEYS = [torch.zeros(1, 2, tokens, 4) for tokens in (5, 3)]
BYTES = [2 * 2 * 5 * 4 * 4, 2 * 2 * 3 * 4 * 4]
PAIRS = tuple((keys, keys) for keys in KEYS)


@pytest.mark.parametrize(
    "output",
    [
        SimpleNamespace(past_key_values=PAIRS),
        (torch.zeros(1), PAIRS),
        SimpleNamespace(past_key_values=SimpleNamespace(key_cache=KEYS, value_cache=KEYS)),
        SimpleNamespace(
            past_key_values=SimpleNamespace(
                layers=[SimpleNamespace(keys=keys, values=keys) for keys in KEYS]
            )
        ),
    ],
    ids=["tuples", "in a tuple", "two lists", "layers"],
)
def test_a_cache_in_each_form_that_transformers_had(output: Any) -> None:
    assert layer_bytes(output) == BYTES


@pytest.mark.parametrize(
    "output",
    [torch.zeros(1), (torch.zeros(1), torch.zeros(1)), SimpleNamespace(past_key_values=None), None],
)
def test_what_is_no_cache_has_no_bytes(output: Any) -> None:
    assert layer_bytes(output) == []


def test_what_was_returned_is_told_by_its_form_alone() -> None:
    found = form_of({"a": torch.zeros(2, 3), "b": [1, "text"], "c": (b"x", None)})
    assert found == (
        "dict(a: Tensor[2, 3], b: list of 2 (int, str of 4), c: tuple of 2 (bytes of 1, NoneType))"
    )
    assert form_of([1.0, 2.0]) == form_of([3.0, 4.0])


def test_a_function_without_parameters_is_a_loader_or_the_request() -> None:
    loader = Target(lambda: lambda inputs: len(inputs), "m:load", 2)
    assert loader.call({"x": 1}) == 1
    request = Target(lambda: torch.ones(3), "m:run", 2)
    assert request.inputs(None) == {}
    assert request.call({}).shape == (3,)
    assert not request.makes_inputs(dict)


def test_inputs_are_its_own_or_those_of_the_request() -> None:
    def own(inputs: Any) -> Any:
        return inputs

    target = Target(own, "m:own", 2)
    assert target.inputs({"x": 1}) == {"x": 1}
    with pytest.raises(
        TargetError, match=r"name a --model, or let it declare its own \(own.inputs"
    ):
        target.inputs(None)
    with pytest.raises(TargetError, match="its inputs are list, not a mapping"):
        target.inputs([1])
    own.inputs = lambda: {"y": 2}  # type: ignore[attr-defined]
    target = Target(own, "m:own", 2)
    assert target.inputs({"x": 1}) == {"y": 2}
    assert target.makes_inputs(None)


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("nowhere_at_all:f", "there is no module nowhere_at_all"),
        ("json:nothing", "json has no nothing; it has"),
        ("json", "is not MODULE:FUNCTION"),
        ("missing.py:f", "no such file"),
    ],
)
def test_what_names_nothing_says_so(reference: str, told: str, tmp_path: Any) -> None:
    with pytest.raises(TargetError, match=told):
        find(reference, str(tmp_path))


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(TargetError, match="m:x is int: give a function or a model"):
        Target(3, "m:x", 2)


def test_a_model_whose_layers_are_called_otherwise_says_so() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    assert parts_of(model).lacking == "no list of decoder layers (layers, h, blocks) in Sequential"


def test_layers_of_the_vision_tower_are_not_the_decoders() -> None:
    """The tower may have more weights than the decoder."""

    def block(width: int) -> Any:
        return torch.nn.ModuleList([torch.nn.Linear(width, width)])

    model = torch.nn.Module()
    model.vision_tower = torch.nn.Module()
    model.vision_tower.layers = block(64)
    model.text = torch.nn.Module()
    model.text.layers = block(4)
    model.lm_head = torch.nn.Linear(4, 4)
    parts = parts_of(model)
    assert parts.layers == [*model.text.layers]
    assert parts.decoder is model.text
    assert parts.vision is model.vision_tower
    assert parts.head is model.lm_head


def worker(found: Any, inputs: Any = None) -> Worker:
    made = Worker()
    given = {"x": torch.ones(2, 2)} if inputs is None else inputs
    made.load(found, "m:f", device="cpu", new_tokens=1, inputs=given)
    return made


@pytest.mark.parametrize(
    ("call", "faults"),
    [
        (lambda inputs: inputs["x"] @ inputs["x"], []),
        (lambda inputs: {"logits": [inputs["x"] * float("nan")]}, ["nan"]),
        (lambda inputs: (inputs["x"] * torch.ones(2, requires_grad=True),), ["gradients"]),
        (lambda inputs: inputs["x"].add_(1), ["inputs"]),
        (lambda inputs: None, []),
    ],
    ids=["none", "nan", "gradients", "inputs", "nothing returned"],
)
def test_one_request_shows_what_makes_figures_doubtful(
    call: Callable[[Any], Any], faults: list[str]
) -> None:
    assert worker(call).counted()["faults"] == faults


def test_inputs_that_are_made_anew_may_be_changed() -> None:
    found = worker(lambda inputs: inputs["x"].add_(1), lambda: {"x": torch.ones(2)})
    assert found.counted()["faults"] == []


def test_inputs_need_not_be_tensors() -> None:
    found = worker(lambda inputs: [inputs["n"]] * len(inputs["s"]), {"n": 1, "s": "abc"})
    assert found.counted()["looks"]["what it returned"] == "list of 3 (int, int, int)"


async def later(inputs: Any) -> Any:
    return inputs


@pytest.mark.parametrize("lazy", [lambda inputs: map(len, "ab"), later], ids=["iterator", "async"])
@pytest.mark.filterwarnings("ignore:coroutine")
def test_what_has_not_run_yet_is_not_measured(lazy: Any) -> None:
    with pytest.raises(TargetError, match="of which nothing has run yet: return what comes of it"):
        worker(lazy).timed()


@pytest.mark.parametrize("call", [lambda a, b: a, lambda **inputs: inputs], ids=["two", "keywords"])
def test_it_is_called_with_one_argument(call: Any) -> None:
    with pytest.raises(TargetError, match=r"m:f\(.*\) is called with one argument, the inputs"):
        worker(call)


def test_the_clock_is_not_the_one_that_it_replaces(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(inputs: Any) -> None:
        for name in ("perf_counter", "perf_counter_ns", "time"):
            monkeypatch.setattr(time, name, lambda: 0)

    assert worker(call).timed()["latency"] > 0


def test_threads_that_it_leaves_are_counted() -> None:
    enough = threading.Event()

    def call(inputs: Any) -> None:
        thread = threading.Thread(target=enough.wait, daemon=True)
        thread.start()
        if enough.is_set():
            thread.join()

    found = worker(call)
    assert found.timed()["threads"] == 1
    enough.set()
    assert found.timed()["threads"] <= 0


def test_a_dtype_that_changes_shows() -> None:
    model = torch.nn.Linear(2, 2)
    call: Any = lambda inputs: model.double() and None  # noqa: E731
    call.model = model
    found = worker(call)
    assert found.untimed()["looks"]["dtype of its weights"] == "float64"


@pytest.mark.parametrize(
    ("shape", "tokens"), [((2, 5, 4), {0: 5}), ((5, 4), {0: 5}), ((4,), {}), ((1, 2, 5, 4), {})]
)
def test_tokens_are_read_of_hidden_states_of_a_known_form(
    shape: tuple[int, ...], tokens: dict[int, int]
) -> None:
    model = torch.nn.Module()
    model.layers = torch.nn.ModuleList([torch.nn.Identity()])
    with watching(parts_of(model), no_lap) as watch:
        model.layers[0](torch.zeros(shape))
    assert watch.seen.tokens == tokens


def test_a_dtype_among_what_is_given_is_no_tensor() -> None:
    one = torch.ones(2)
    assert [found is one for found in tensors_in({"x": one, "dtype": torch.bfloat16})] == [True]
