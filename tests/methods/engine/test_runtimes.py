"""The runtimes: a static cache and compiled layers give what eager decode gives, or say why not."""

from __future__ import annotations

import gc
import os
import re
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_capture import Captures, FakeCapture
from micro_models import MICRO, PRUNING, SIZE, load, sharpen, skip_unsupported
from torch._dynamo.utils import counters

import tpprof
from tpprof import methods
from tpprof.methods.contract.errors import InputError
from tpprof.methods.contract.policies import POLICIES, RUNTIMES, Policy, check_runtime
from tpprof.methods.engine.context import Lap
from tpprof.methods.engine.decoder import Inputs
from tpprof.methods.engine.run import Trace, run
from tpprof.methods.engine.runtimes import compiled, graph, make_runtime
from tpprof.methods.engine.runtimes.capture import Cut
from tpprof.methods.engine.runtimes.compiled import CompileRuntime
from tpprof.methods.engine.runtimes.graph import GraphRuntime
from tpprof.methods.engine.runtimes.runtime import Runtime
from tpprof.profiler.authoring.micro import micro_model
from tpprof.profiler.models.model import Model

STEPS = 4  # new tokens
Laps = list[tuple[str, str, int | None]]


def budgeted(spec: str) -> methods.Method:
    return methods.with_keep(methods.parse(spec), "1/2")


def compare(
    model: Model, inputs: Inputs, spec: str, runtime: Runtime, policy: Policy = "rows"
) -> tuple[Trace, Laps]:
    """A request under `runtime` gives the trace of the eager one; returns it and its laps."""
    method, laps = budgeted(spec), Laps()
    expected = run(model, inputs, method, attention=policy)
    trace = run(model, inputs, method, attention=policy, runtime=runtime, lap=into(laps))
    torch.testing.assert_close(trace.logits, expected.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(trace.step_logits, expected.step_logits, atol=1e-4, rtol=1e-4)
    assert torch.equal(trace.tokens, expected.tokens)
    assert all(map(torch.equal, trace.kept, expected.kept))
    assert trace.ledger == expected.ledger
    assert trace.kv_bytes == expected.kv_bytes
    return trace, laps


def into(laps: Laps) -> Lap:
    def lap(phase: str, part: str, index: int | None = None) -> None:
        laps.append((phase, part, index))

    return lap


def eager_laps(model: Model, inputs: Inputs, spec: str, policy: Policy = "rows") -> Laps:
    laps = Laps()
    run(model, inputs, budgeted(spec), attention=policy, lap=into(laps))
    return laps


def request(model: Model, *, batch: int = 1, seed: int = 0, tokens: int = STEPS) -> Inputs:
    return tpprof.inputs(model, image_size=SIZE, batch_size=batch, seed=seed, new_tokens=tokens)


def test_runtimes_are_made_by_name(llava_next: Model) -> None:
    for name in RUNTIMES:
        assert check_runtime(name) == name
        assert make_runtime(name, llava_next).name == name
    with pytest.raises(InputError, match="unknown runtime 'jit'; known: eager, graph, compile"):
        make_runtime("jit", llava_next)


WAITING = "mustdrop:global_threshold=0.001"  # how many tokens stay, the data tells
SOLVING = ("mustdrop",)  # anew in each request, where nobody hands the solved knobs on


@pytest.mark.parametrize("spec", [*PRUNING, WAITING, "fastv:layer=1", "sparsevlm:version=1.5"])
def test_graphs_give_what_eager_requests_give(model: Model, spec: str) -> None:
    skip_unsupported(model, spec)
    captures = Captures()
    runtime = GraphRuntime(model, capture=captures)
    for seed in (0, 1):
        _, laps = compare(model, request(model, seed=seed), spec, runtime)
    replayed = [lap for lap in laps if lap[0] == "decode" or spec != WAITING]
    assert captures.replays == 2 * (len(replayed) - 1), "from lap to lap, but for filling the cache"
    assert bool(runtime.eager_prefill) == (spec == WAITING)
    if spec not in (WAITING, *SOLVING):
        assert runtime.captures == 2
    before = runtime.captures
    compare(model, request(model, batch=2), spec, runtime)
    smaller = tpprof.inputs(model, image_size=(84, 168), new_tokens=2)
    compare(model, smaller, spec, runtime)
    assert runtime.captures == before + (2 if spec == WAITING else 4)
    assert not runtime.fallback


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("spec", ["fastv", "mustdrop"])
def test_graphs_under_each_policy(model: Model, spec: str, policy: Policy) -> None:
    skip_unsupported(model, spec)
    runtime = GraphRuntime(model, capture=Captures())
    compare(model, request(model), spec, runtime, policy)
    assert not runtime.fallback


def test_why_prefill_is_not_captured(llava_next: Model) -> None:
    runtime = GraphRuntime(llava_next, capture=Captures())
    for count in (1, 2):
        compare(llava_next, request(llava_next), WAITING, runtime)
        assert "when stream is capturing" in runtime.eager_prefill
        assert re.search(r"\(mustdrop.py line \d+\)$", runtime.eager_prefill)
        assert (runtime.captures, runtime.fallback) == (1, ""), f"after {count} requests"


def test_what_prefill_alone_gives_is_captured(llava_next: Model) -> None:
    captures = Captures()
    runtime = GraphRuntime(llava_next, capture=captures)
    _, laps = compare(llava_next, request(llava_next, tokens=1), "fastv", runtime)
    assert (runtime.fallback, runtime.captures, captures.replays) == ("", 1, len(laps))


def test_graphs_with_eager_attention(llava_next: Model) -> None:
    twin = tpprof.load(llava_next.shape, device="cpu", backend="eager")
    sharpen(twin)
    runtime = GraphRuntime(twin, capture=Captures())
    for batch in (1, 2):
        compare(twin, request(twin, batch=batch), "sparsevlm", runtime)
    assert not runtime.fallback
    assert not runtime.eager_prefill
    run(twin, request(twin), budgeted("mustdrop"), attention="published", runtime=runtime)
    assert "on the host" in runtime.fallback


def test_traces_do_not_share_the_static_tensors(llava_next: Model) -> None:
    runtime = GraphRuntime(llava_next, capture=Captures())
    method = budgeted("fastv")
    first = run(llava_next, request(llava_next), method, runtime=runtime)
    held = [first.logits, first.step_logits, first.tokens, *first.kept]
    before = [tensor.clone() for tensor in held]
    second = run(llava_next, request(llava_next, seed=5), method, runtime=runtime)
    assert not torch.equal(first.logits, second.logits)
    assert all(map(torch.equal, held, before))


def test_a_request_that_is_verified_runs_eagerly(llava_next: Model) -> None:
    runtime = GraphRuntime(llava_next, capture=Captures())
    inputs = request(llava_next, tokens=1)
    run(llava_next, inputs, budgeted("fastv"), runtime=runtime, verify=True)
    assert (runtime.captures, runtime.eager_prefill, runtime.fallback) == (0, "", "")


def test_what_graphs_hide_from_the_allocator_is_told(llava_next: Model) -> None:
    captures = Captures()
    runtime = GraphRuntime(llava_next, capture=captures)
    assert runtime.hidden_bytes() == 0
    run(llava_next, request(llava_next), budgeted("fastv"), runtime=runtime)
    captures.hidden_bytes = 5
    assert runtime.hidden_bytes() == 10, "of prefill and of decode"


def test_laps_of_a_graph(llava_next: Model) -> None:
    inputs = request(llava_next)
    runtime = GraphRuntime(llava_next, capture=Captures())
    steps: Laps = [("decode", "token", step) for step in range(STEPS - 1)]
    eager = eager_laps(llava_next, inputs, "fastv")
    for _ in range(2):
        _, laps = compare(llava_next, inputs, "fastv", runtime)
        assert laps == [*eager[: -len(steps)], ("decode", "fill", None), *steps]


def test_what_no_graph_can_hold(llava_next: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = request(llava_next)
    runtime = GraphRuntime(llava_next, capture=Captures())
    _, laps = compare(llava_next, inputs, "sparsevlm", runtime, "published")
    assert "on the host in decode" in runtime.fallback
    assert runtime.captures == 0
    assert laps == eager_laps(llava_next, inputs, "sparsevlm", "published")
    monkeypatch.setattr(graph, "MOST_STEPS", STEPS - 2)
    runtime = GraphRuntime(llava_next, capture=Captures())
    compare(llava_next, inputs, "fastv", runtime)
    assert f"no more than {STEPS - 2} are made" in runtime.fallback


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a CUDA device")
def test_a_graph_needs_a_cuda_device(llava_next: Model) -> None:
    runtime = make_runtime("graph", llava_next)
    assert runtime.fallback == "needs a CUDA device"
    inputs = request(llava_next)
    _, laps = compare(llava_next, inputs, "fastv", runtime)
    assert laps == eager_laps(llava_next, inputs, "fastv")


@pytest.mark.parametrize("new_tokens", [1, STEPS])
@pytest.mark.parametrize("name", ["eager", "graph"])
@pytest.mark.parametrize("spec", ["vanilla", "fastv", "sparsevlm", "mustdrop"])
def test_no_cycle_keeps_a_request_alive(
    spec: str, name: str, new_tokens: int, llava_next: Model
) -> None:
    """Garbage is not collected while the clock runs: what a request held must go with it."""
    runtime = (
        GraphRuntime(llava_next, capture=Captures()) if name == "graph" else Runtime(llava_next)
    )
    inputs = tpprof.inputs(llava_next, image_size=SIZE)
    pixels = weakref.ref(inputs["pixel_values"])
    gc.collect()
    gc.disable()
    try:
        trace = run(llava_next, inputs, budgeted(spec), new_tokens=new_tokens, runtime=runtime)
        logits = weakref.ref(trace.logits)
        del inputs, trace
        assert pixels() is None
        assert logits() is None
    finally:
        gc.enable()


def test_no_cycle_keeps_a_failed_request_alive(llava_next: Model) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("no more")

    inputs = tpprof.inputs(llava_next, image_size=SIZE)
    pixels = weakref.ref(inputs["pixel_values"])
    runtime = Runtime(llava_next)
    runtime.decode = fail  # type: ignore[assignment, method-assign]
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(RuntimeError, match="no more"):
            run(llava_next, inputs, budgeted("fastv"), runtime=runtime)
        del inputs
        assert pixels() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("tokens", [1, STEPS])
def test_a_capture_that_fails(llava_next: Model, tokens: int) -> None:
    tried: list[torch.device] = []

    class Fails(FakeCapture):
        def chain(self, work: Callable[[Cut], Any]) -> Any:
            super().chain(work)
            raise RuntimeError("operation not permitted\nwhen the stream is capturing")

    def capture(device: torch.device) -> FakeCapture:
        tried.append(device)
        return Fails(Captures())

    runtime = GraphRuntime(llava_next, capture=capture)
    for _ in range(2):
        compare(llava_next, request(llava_next, tokens=tokens), "fastv", runtime)
        assert runtime.eager_prefill == "RuntimeError: operation not permitted"
        assert bool(runtime.fallback) == (tokens > 1)
        assert runtime.hidden_bytes() == 0
    assert tried == [torch.device("cpu")] * (1 + (tokens > 1))


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("architecture", "spec", "policy"),
    [
        ("qwen2-vl", "vanilla", "rows"),
        ("llava", "fastv", "rows"),
        ("qwen2-vl", "fastv", "maps"),
        ("llava-next", "sparsevlm", "rows"),
        ("llava", "mustdrop", "rows"),
    ],
)
@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_layers_are_eager_layers(architecture: str, spec: str, policy: Policy) -> None:
    # A model of its own: once asked for its maps, transformers leaves hooks on layers.
    model, tokens = micro_model(architecture), 5 if spec == "vanilla" else 2
    runtime = CompileRuntime(model, backend="eager")
    graphs = []
    for seed, size in enumerate((SIZE, SIZE, (84, 168), (231, 90), (84, 90))):
        inputs = tpprof.inputs(model, image_size=size, seed=seed, new_tokens=tokens)
        _, laps = compare(model, inputs, spec, runtime, policy)
        assert laps == eager_laps(model, inputs, spec, policy)
        graphs.append(runtime.graphs)
    assert runtime.fallback == ""
    # Layers broken up by a reading may compile once more, for any length, when a length changes.
    assert 1 < graphs[0] == graphs[1]
    assert graphs[2] == graphs[3] == graphs[4]
    assert runtime.recompiles == graphs[4] - graphs[0]
    if spec == "vanilla":
        assert runtime.recompiles == runtime.graph_breaks == 0, dict(counters["graph_break"])
    else:
        assert runtime.graph_breaks > 0


@pytest.mark.usefixtures("fresh_compiler")
def test_compiling_leaves_the_model_alone(llava_next: Model) -> None:
    before = [dict(vars(layer)) for layer in llava_next.layers]
    own = llava_next.text_config._attn_implementation
    runtime = CompileRuntime(llava_next, backend="eager")
    inputs = request(llava_next, tokens=2)
    compare(llava_next, inputs, "vanilla", runtime)
    graphs = runtime.graphs
    compare(llava_next, inputs, "vanilla", Runtime(llava_next))
    assert [dict(vars(layer)) for layer in llava_next.layers] == before
    assert llava_next.text_config._attn_implementation == own
    assert runtime.graphs == graphs


@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiler_that_fails(llava_next: Model) -> None:
    tried: list[int] = []

    def backend(module: Any, inputs: Any) -> Any:
        tried.append(1)
        raise RuntimeError("no working C++ compiler\nhere")

    runtime = CompileRuntime(llava_next, backend=backend)
    for _ in range(2):
        compare(llava_next, request(llava_next), "fastv", runtime)
        assert runtime.fallback == "RuntimeError: no working C++ compiler"
    assert len(tried) == 1


@pytest.mark.usefixtures("fresh_compiler")
def test_too_many_graphs_are_no_silent_fallback(
    llava_next: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(compiled.SETTINGS, "recompile_limit", 1)
    runtime = CompileRuntime(llava_next, backend="eager")
    compare(llava_next, request(llava_next), "vanilla", runtime)
    assert "limit" in runtime.fallback


@pytest.mark.usefixtures("fresh_compiler")
def test_an_error_of_the_model_is_not_the_compilers(llava_next: Model) -> None:
    def fail(*given: Any) -> None:
        raise RuntimeError("out of memory, say")

    runtime = CompileRuntime(llava_next, backend="eager")
    hook = llava_next.module.lm_head.register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="out of memory, say"):
            run(llava_next, request(llava_next, tokens=1), budgeted("vanilla"), runtime=runtime)
    finally:
        hook.remove()
    assert runtime.fallback == ""
    with pytest.raises(methods.BudgetError):
        run(llava_next, request(llava_next), methods.parse("fastv:layer=99"), runtime=runtime)
    assert runtime.fallback == ""


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
@pytest.mark.usefixtures("fresh_compiler")
def test_the_real_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model = load("llava")
    runtime = make_runtime("compile", model)
    with config.patch({"compile_threads": 1, "cpp.vec_isa_ok": True}):
        compare(model, request(model, tokens=1), "vanilla", runtime)
    assert runtime.fallback == ""


@pytest.fixture(scope="module", params=list(MICRO))
def on_gpu(request: pytest.FixtureRequest) -> Model:
    model = tpprof.load(MICRO[request.param], device="cuda", dtype="float32", seed=1)
    sharpen(model)
    return model


@pytest.mark.gpu
@pytest.mark.parametrize("spec", PRUNING)
def test_cuda_graphs_give_what_eager_requests_give(on_gpu: Model, spec: str) -> None:
    skip_unsupported(on_gpu, spec)
    runtime = make_runtime("graph", on_gpu)
    for batch, seed in ((1, 0), (1, 1), (2, 0)):
        compare(on_gpu, request(on_gpu, batch=batch, seed=seed, tokens=9), spec, runtime)
    assert runtime.fallback == ""
    assert bool(runtime.eager_prefill) == (spec == WAITING)
    assert runtime.hidden_bytes() > 0
    stream = torch.cuda.current_stream()
    assert stream == torch.cuda.default_stream()


@pytest.mark.gpu
@pytest.mark.parametrize("architecture", list(MICRO))
@pytest.mark.parametrize("spec", ["vanilla", "fastv", "sparsevlm"])
def test_cuda_graphs_in_bfloat16(architecture: str, spec: str) -> None:
    """Within 2 % of the logits' size: the kernels are the same, the order of adding may not be."""
    model = tpprof.load(MICRO[architecture], device="cuda", dtype="bfloat16", seed=1)
    runtime = make_runtime("graph", model)
    for seed in (0, 1):
        inputs = request(model, seed=seed)
        assert _off(run(model, inputs, budgeted(spec), runtime=runtime), model, inputs, spec) < 0.02
    assert (runtime.fallback, runtime.eager_prefill) == ("", "")


@pytest.mark.gpu
def test_replaying_never_waits_for_the_device(on_gpu: Model) -> None:
    runtime, inputs, method = make_runtime("graph", on_gpu), request(on_gpu), budgeted("fastv")
    run(on_gpu, inputs, method, runtime=runtime)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(on_gpu, inputs, method, runtime=runtime)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (runtime.fallback, runtime.eager_prefill) == ("", "")


@pytest.mark.gpu
def test_a_capture_that_fails_leaves_the_device_as_it_was(tmp_path: Path) -> None:
    """In a process of its own: were it not so, all later tests would fail."""
    ran = subprocess.run(
        [sys.executable, "-c", FAILED_CAPTURE], capture_output=True, text=True, env=SEARCHED
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["captured:", "2"]


FAILED_CAPTURE = """
import torch
from micro_models import MICRO, SIZE
import tpprof
from tpprof import methods
from tpprof.methods.engine.run import run
from tpprof.methods.engine.runtimes import make_runtime

model = tpprof.load(MICRO["llava-next"], device="cuda", dtype="float32", seed=1)
method = methods.with_keep(methods.parse("fastv"), "1/2")
inputs = tpprof.inputs(model, image_size=SIZE, new_tokens=4)
expected = run(model, inputs, method)

def wait(module, given):
    given[0].flatten()[0].item()

def refuse(module, given):  # ends the capture, and breaks nothing of CUDA
    if torch.cuda.is_current_stream_capturing():
        raise ValueError("not in a graph")

for hook in (wait, refuse):
    runtime = make_runtime("graph", model)
    handle = model.layers[0].register_forward_pre_hook(hook)
    trace = run(model, inputs, method, runtime=runtime)
    handle.remove()
    assert runtime.fallback and runtime.eager_prefill, (runtime.fallback, runtime.eager_prefill)
    torch.testing.assert_close(trace.logits, expected.logits, atol=1e-4, rtol=1e-4)
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    del runtime
    torch.rand(3, device="cuda")
    torch.cuda.empty_cache()
other = tpprof.load(MICRO["llava"], device="cuda", dtype="float32", seed=1)
runtime = make_runtime("graph", other)
run(other, tpprof.inputs(other, image_size=SIZE, new_tokens=4), method, runtime=runtime)
assert not runtime.fallback and not runtime.eager_prefill, (runtime.fallback, runtime.eager_prefill)
print("captured:", runtime.captures)
"""
SEARCHED = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.mark.gpu
@pytest.mark.parametrize("spec", ["vanilla", "fastv", "sparsevlm"])
@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_for_the_gpu(on_gpu: Model, spec: str) -> None:
    runtime = make_runtime("compile", on_gpu)
    for seed in (0, 1):
        trace = run(on_gpu, request(on_gpu, seed=seed), budgeted(spec), runtime=runtime)
        expected = run(on_gpu, request(on_gpu, seed=seed), budgeted(spec))
        torch.testing.assert_close(trace.logits, expected.logits, atol=1e-3, rtol=1e-3)
    assert runtime.fallback == ""


@pytest.mark.gpu
@pytest.mark.parametrize("spec", ["vanilla", "fastv"])
@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_for_the_gpu_in_bfloat16(spec: str) -> None:
    """Fused kernels round less often: within 5 % of the logits' size."""
    model = tpprof.load(MICRO["llava-next"], device="cuda", dtype="bfloat16", seed=1)
    runtime, inputs = make_runtime("compile", model), request(model)
    assert _off(run(model, inputs, budgeted(spec), runtime=runtime), model, inputs, spec) < 0.05
    assert runtime.fallback == ""


def _off(trace: Trace, model: Model, inputs: Inputs, spec: str) -> float:
    """How far the logits are from eager ones, in units of their size."""
    expected = run(model, inputs, budgeted(spec)).logits.float()
    return float((trace.logits.float() - expected).norm() / expected.norm())
