"""A request gives the same whatever ran before it; what would make it depend on that is caught."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy
import pytest
import torch
from micro_models import MICRO, SIZE, THOROUGH, load_with_rope
from torch.nn.modules.module import register_module_forward_hook

import tpprof
from tpprof.methods import (
    Budget,
    Entering,
    InputError,
    Keep,
    Method,
    Plan,
    Request,
    Stage,
    UnsupportedError,
    View,
    parse,
)
from tpprof.methods.contract.policies import Policy
from tpprof.methods.engine.run import Trace, run
from tpprof.methods.selection.choose import top
from tpprof.profiler import cost
from tpprof.profiler.machine.settings import SETTINGS
from tpprof.profiler.models.checkpoint.rotary import STATELESS
from tpprof.profiler.models.model import Model
from tpprof.profiler.run.bench import Bench
from tpprof.profiler.run.cells import make_cells
from tpprof.profiler.run.engine_cell import EngineCell
from tpprof.profiler.run.hidden_state import LeftBehindError
from tpprof.profiler.workload import Preparation
from tpprof.reports.record.spec import Workload

CELLS: tuple[tuple[str, Policy], ...] = (
    ("vanilla", "rows"),
    ("fastv:keep=1/4", "rows"),
    ("fastv-window:keep=1/4", "maps"),
    ("pooling:keep=1/4", "rows"),
    ("random:keep=1/4", "rows"),
    ("sparsevlm:keep=1/2,adaptive=true", "rows"),
    ("sparsevlm:keep=1/2", "published"),
    ("mustdrop:keep=1/2", "maps"),
)
REQUESTS: tuple[dict[str, Any], ...] = (
    {"image_size": SIZE, "text_tokens": (3, 4), "new_tokens": 3},
    {"image_size": (84, 168), "text_tokens": (2, 90), "new_tokens": 2, "batch_size": 2},
    {"image_size": (252, 168), "text_tokens": (9, 5), "new_tokens": 40},
)


def answers(
    model: Model, cells: tuple[tuple[str, Policy], ...], options: dict[str, Any]
) -> dict[tuple[str, Policy], Trace]:
    inputs = tpprof.inputs(model, **options)
    return {(s, p): tpprof.forward(model, inputs, s, attention=p) for s, p in cells}


def require_equal(trace: Trace, other: Trace, model: Model, spec: str, request: Request) -> None:
    """Kept tokens, logits, tokens, FLOPs and bytes of the cache, to the last bit."""
    for kept, others in zip(trace.kept, other.kept, strict=True):
        assert torch.equal(kept, others)
    assert torch.equal(trace.logits, other.logits)
    assert torch.equal(trace.step_logits, other.step_logits)
    assert torch.equal(trace.tokens, other.tokens)
    assert trace.kv_bytes == other.kv_bytes
    plan = parse(spec).plan(request)
    works = [cost.items(model.shape, request, plan, t.ledger, 4) for t in (trace, other)]
    assert works[0] == works[1]


def sums(model: Model) -> dict[str, tuple[int, int]]:
    """The bits of every weight and buffer, summed up."""
    tensors = {**dict(model.module.named_parameters()), **dict(model.module.named_buffers())}
    return {
        name: (tensor.data_ptr(), int(tensor.detach().clone().view(torch.uint8).long().sum()))
        for name, tensor in tensors.items()
    }


@pytest.mark.parametrize("kind", STATELESS)
@pytest.mark.parametrize("architecture", THOROUGH)
def test_a_request_is_the_same_first_last_and_alone(
    architecture: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_with_rope(kind, architecture, monkeypatch)
    untouched = copy.deepcopy(model.module)
    before, settings = sums(model), [setting.get() for setting in SETTINGS]
    first = answers(model, CELLS, REQUESTS[0])
    for between in REQUESTS[1:]:
        answers(model, CELLS[1:3], between)
    last = answers(model, CELLS[::-1], REQUESTS[0])
    assert sums(model) == before
    assert [setting.get() for setting in SETTINGS] == settings
    assert getattr(model.module.model, "rope_deltas", None) is None
    request = tpprof.inputs(model, **REQUESTS[0]).request
    alone_cells = CELLS if kind == "default" else CELLS[1:3]
    for cell in alone_cells:
        model.module = copy.deepcopy(untouched)
        alone = answers(model, (cell,), REQUESTS[0])[cell]
        require_equal(first[cell], alone, model, cell[0], request)
    for cell in CELLS:
        require_equal(first[cell], last[cell], model, cell[0], request)


def test_a_batch_does_not_change_what_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_with_rope("default", "qwen2-vl", monkeypatch)
    first = answers(model, CELLS, REQUESTS[1])
    answers(model, CELLS, REQUESTS[2])
    again = answers(model, CELLS, REQUESTS[1])
    request = tpprof.inputs(model, **REQUESTS[1]).request
    for cell in CELLS:
        require_equal(first[cell], again[cell], model, cell[0], request)


@dataclass(frozen=True)
class LeaveBehind(Method):
    """Keep the loudest tokens, and change something that outlives the request."""

    name: ClassVar[str] = "leave-behind"
    reached: ClassVar[list[Any]] = []

    what: str = ""
    keep: Budget = Fraction(1, 2)

    def plan(self, request: Request) -> Plan:
        return Plan([Stage(Entering(3), request.budget(self.keep))])

    def decide(self, view: View, stage: Stage) -> Keep | None:
        CHANGES[self.what](self.reached[-1])
        return top(view.states.norm(dim=-1), view.request.budget(self.keep))


@dataclass(frozen=True)
class Remember(LeaveBehind):
    """Keep a count of its requests on itself, and other tokens the more there were."""

    name: ClassVar[str] = "remember"

    def decide(self, view: View, stage: Stage) -> Keep | None:
        seen = getattr(self, "seen", 0)
        object.__setattr__(self, "seen", seen + 1)
        return top(view.states.norm(dim=-1).roll(seen, -1), view.request.budget(self.keep))


@dataclass(frozen=True)
class RememberElsewhere(LeaveBehind):
    """The same, with the count kept by its class."""

    name: ClassVar[str] = "remember-elsewhere"
    seen: ClassVar[list[int]] = []

    def decide(self, view: View, stage: Stage) -> Keep | None:
        self.seen.append(view.count)
        return top(
            view.states.norm(dim=-1).roll(len(self.seen), -1), view.request.budget(self.keep)
        )


def _replace_buffer(model: Model) -> None:
    rotary = model.language.rotary_emb
    rotary.register_buffer("inv_freq", rotary.inv_freq * 2.0, persistent=False)


OF_MODEL: dict[str, tuple[Callable[[Model], Any], str]] = {
    "weight": (lambda model: model.language.norm.weight.add_(1.0), "language_model.norm.weight"),
    "buffer": (lambda model: model.language.rotary_emb.inv_freq.mul_(2.0), "inv_freq"),
    "other buffer": (_replace_buffer, "inv_freq"),
    "attribute": (lambda model: setattr(model.module.model, "seen", [1]), "model.seen"),
    "hook": (
        lambda model: model.language.layers[0].register_forward_hook(lambda *_: None),
        "_forward_hooks",
    ),
}
OF_PROCESS: dict[str, tuple[Callable[[Model], Any], str]] = {
    "torch numbers": (lambda model: torch.rand(3), "torch's random numbers: .*view.random"),
    "torch seed": (lambda model: torch.manual_seed(7), "torch's random numbers"),
    "numpy numbers": (lambda model: numpy.random.rand(3), "numpy's random numbers"),
    "python numbers": (lambda model: random.random(), "Python's random numbers"),
    "dtype": (lambda model: torch.set_default_dtype(torch.float64), "the default dtype"),
    "threads": (lambda model: torch.set_num_threads(3), "the number of threads"),
    "deterministic": (
        lambda model: torch.use_deterministic_algorithms(True, warn_only=True),
        "the choice of deterministic algorithms",
    ),
    "precision": (
        lambda model: torch.set_float32_matmul_precision("medium"),
        "the precision of float32 products",
    ),
    "hook of all modules": (
        lambda model: register_module_forward_hook(lambda *_: None),
        "the hooks that run on all modules",
    ),
    "autocast": (lambda model: torch.set_autocast_enabled("cpu", True), "autocast on cpu"),
    "kernel": (lambda model: torch.backends.cuda.enable_flash_sdp(False), "flash attention kernel"),
}
CHANGES = {what: change for what, (change, _) in {**OF_MODEL, **OF_PROCESS}.items()}


@pytest.fixture
def own() -> Iterator[Model]:
    """A model that a test may break."""
    model = tpprof.load(MICRO["llava"], device="cpu")
    LeaveBehind.reached.append(model)
    yield model
    LeaveBehind.reached.clear()
    RememberElsewhere.seen.clear()


def bench_cells(model: Model, *methods: Method) -> tuple[Bench, list[EngineCell]]:
    prepare = Preparation(model, Workload(image_size=SIZE))
    return Bench(model.device), make_cells(list(methods), ("rows",), ("eager",), prepare)


@pytest.mark.parametrize("what", OF_MODEL)
def test_a_request_that_changes_the_model_ends_the_run(what: str, own: Model) -> None:
    bench, made = bench_cells(own, LeaveBehind(what))
    with bench, pytest.raises(InputError, match=OF_MODEL[what][1]) as told:
        bench.warm_up(made[1])
    assert "a request with leave-behind changed" in str(told.value)


@dataclass(frozen=True)
class LeaveBehindAndFail(LeaveBehind):
    """Change something, and fail."""

    name: ClassVar[str] = "leave-behind-and-fail"

    def decide(self, view: View, stage: Stage) -> Keep | None:
        super().decide(view, stage)
        raise RuntimeError("and it fails")


def test_a_model_that_a_failing_request_changed_ends_the_run_too(own: Model) -> None:
    bench, made = bench_cells(own, LeaveBehindAndFail(next(iter(OF_MODEL))))
    with bench, pytest.raises(InputError, match="changed"):
        bench.warm_up(made[1])


@pytest.mark.parametrize("what", OF_PROCESS)
def test_a_request_that_changes_the_process_fails_and_it_is_put_back(what: str, own: Model) -> None:
    before = [setting.get() for setting in SETTINGS]
    bench, made = bench_cells(own, LeaveBehind(what))
    with bench:
        bench.warm_up(made[1])
        assert [setting.get() for setting in SETTINGS] == before
        assert "a request with it changes" in made[1].saved.error
        made[1].saved.error = ""
        assert bench.sample(made[1], 0, 0, 0) is None, "and so would a later request"
        assert [setting.get() for setting in SETTINGS] == before
        bench.warm_up(made[0])
    assert made[0].alive
    with pytest.raises(LeftBehindError, match=OF_PROCESS[what][1]):
        tpprof.forward(own, tpprof.inputs(own, image_size=SIZE), LeaveBehind(what))


def test_what_a_method_keeps_on_itself_or_its_class_is_caught(own: Model) -> None:
    bench, made = bench_cells(own, Remember(), RememberElsewhere())
    with bench:
        for cell in made:
            bench.warm_up(cell)
    assert made[0].alive
    assert "it changes its own seen" in made[1].saved.error
    assert "keeps other visual tokens when it is run again" in made[2].saved.error


def test_cells_share_no_method(own: Model) -> None:
    shared = Remember()
    _, made = bench_cells(own, shared)
    inputs = tpprof.inputs(own, image_size=SIZE)
    run(own, inputs, made[1].method)
    assert not hasattr(shared, "seen")


def test_the_models_of_all_architectures_are_left_as_found(model: Model) -> None:
    before = sums(model)
    for spec, policy in CELLS:
        with suppress(UnsupportedError):  # as tests/methods/test_support.py lists
            tpprof.forward(model, tpprof.inputs(model, image_size=SIZE), spec, attention=policy)
    assert sums(model) == before
