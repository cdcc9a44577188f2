"""Attention kernels that are asked for: held to in tower and decoder, refused with the reason."""

from __future__ import annotations

import warnings
from importlib.metadata import PackageNotFoundError
from typing import Any

import pytest
import torch
from fake_capture import Captures
from micro_models import MICRO, SIZE
from torch.nn.attention import SDPBackend, sdpa_kernel

import tpprof
from tpprof.methods import parse
from tpprof.methods.engine.attention import SDPA_KERNELS
from tpprof.methods.engine.run import run
from tpprof.methods.engine.runtimes.compiled import CompileRuntime
from tpprof.methods.engine.runtimes.graph import GraphRuntime
from tpprof.profiler.models import backends
from tpprof.profiler.models.errors import ModelError
from tpprof.profiler.models.model import Model

Attend = torch.nn.functional.scaled_dot_product_attention
FLAGS = {
    "sdpa-flash": torch.backends.cuda.flash_sdp_enabled,
    "sdpa-cudnn": torch.backends.cuda.cudnn_sdp_enabled,
    "sdpa-efficient": torch.backends.cuda.mem_efficient_sdp_enabled,
    "math": torch.backends.cuda.math_sdp_enabled,
}
"""Whether torch's attention may use a kernel, by the backend that holds it to that."""


def allowed() -> list[str]:
    return [name for name, asked in FLAGS.items() if asked()]


def refusal(backend: str, device: str = "cpu", dtype: torch.dtype = torch.bfloat16) -> str:
    """Why a backend cannot be had; one line."""
    with pytest.raises(ModelError) as caught:
        backends.require_backend(backend, torch.device(device), dtype)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("backend", SDPA_KERNELS)
def test_torch_is_held_to_the_kernel_in_tower_and_decoder(
    backend: str, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def attend(*given: Any, **options: Any) -> Any:
        seen.append(allowed())
        with sdpa_kernel([SDPBackend.MATH]):
            return Attend(*given, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)
    monkeypatch.setattr(model, "backend", backend)
    before = allowed()
    inputs = tpprof.inputs(model, image_size=SIZE, new_tokens=3)
    run(model, inputs, parse("fastv:keep=1/2"), attention="rows")
    layers = len(model.layers)
    assert len(seen) > 3 * layers, "of the tower, of prefill, of two steps of decode"
    assert all(held == [backend] for held in seen)
    assert allowed() == before


def test_a_kernel_is_let_go_of_when_a_request_fails(
    llava_next: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llava_next, "backend", "sdpa-cudnn")  # which no CPU has
    before = allowed()
    inputs = tpprof.inputs(llava_next, image_size=SIZE)
    with pytest.raises(RuntimeError, match="No viable backend"):
        run(llava_next, inputs, parse("vanilla"))
    assert allowed() == before


@pytest.mark.parametrize("architecture", MICRO)
def test_the_flash_kernel_of_a_cpu_gives_the_same_answer(architecture: str) -> None:
    held, free = (
        tpprof.load(MICRO[architecture], device="cpu", seed=1, backend=backend)
        for backend in ("sdpa-flash", "sdpa")
    )
    inputs = tpprof.inputs(free, image_size=SIZE, new_tokens=3)
    traces = [run(model, inputs, parse("fastv:keep=1/2")) for model in (held, free)]
    torch.testing.assert_close(traces[0].logits, traces[1].logits)
    torch.testing.assert_close(traces[0].step_logits, traces[1].step_logits)


def test_a_compiled_layer_is_held_to_the_kernel_too() -> None:
    model = tpprof.load(MICRO["llava"], device="cpu", seed=1, backend="sdpa-flash")
    inputs = tpprof.inputs(model, image_size=SIZE, new_tokens=3)
    runtime = CompileRuntime(model, backend="aot_eager")
    compiled = run(model, inputs, parse("fastv:keep=1/2"), runtime=runtime)
    eager = run(model, inputs, parse("fastv:keep=1/2"))
    assert runtime.fallback == ""
    torch.testing.assert_close(compiled.logits, eager.logits)


def test_captured_requests_are_held_to_the_kernel_too() -> None:
    """A graph has exactly the keys of eager decode, so that no kernel has to take a mask."""
    model = tpprof.load(MICRO["llava"], device="cpu", seed=1, backend="sdpa-flash")
    inputs = tpprof.inputs(model, image_size=SIZE, new_tokens=3)
    runtime = GraphRuntime(model, capture=Captures())
    captured = run(model, inputs, parse("fastv:keep=1/2"), runtime=runtime)
    eager = run(model, inputs, parse("fastv:keep=1/2"))
    assert (runtime.fallback, runtime.eager_prefill) == ("", "")
    torch.testing.assert_close(captured.step_logits, eager.step_logits)


@pytest.mark.parametrize("backend", ["sdpa-cudnn", "sdpa-efficient"])
def test_kernels_of_cuda_alone(backend: str) -> None:
    assert refusal(backend, dtype=torch.float32) == (
        f"attention backend {backend}: torch has this kernel on CUDA alone, not on cpu; "
        "use --backend sdpa"
    )


def test_a_kernel_that_does_not_take_the_heads_says_what_torch_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch warns why each kernel was not used, and then raises without a reason."""

    def refuses(*given: Any, **options: Any) -> None:
        for line in (
            "Memory efficient kernel not used because: (Triggered internally at a.cpp:1.)",
            "both fused kernels require the same num_heads. (Triggered internally at b.h:2.)",
            "Flash attention kernel not used because: (Triggered internally at a.cpp:3.)",
            "Flash attention has been runtime disabled. (Triggered internally at b.h:4.)",
        ):
            warnings.warn(line, stacklevel=1)
        raise RuntimeError("No available kernel. Aborting execution.")

    monkeypatch.setattr(backends, "call_backend", refuses)
    with pytest.raises(ModelError) as caught:
        backends.require_kernel(
            "sdpa-efficient", torch.device("cpu"), torch.float32, MICRO["qwen2-vl"]
        )
    assert str(caught.value) == (
        "attention backend sdpa-efficient: it does not take the decoder: both fused kernels "
        "require the same num_heads; use --backend sdpa"
    )


@pytest.mark.parametrize(
    ("version", "package", "had"),
    [
        (2, "flash-attn", "tpprof[flash]"),
        (3, "flash-attn-3", "hopper"),
        (4, "flash-attn-4", "tpprof[flash4]"),
    ],
)
def test_flash_attention_without_its_package(
    version: int, package: str, had: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(backends, "version", missing)
    said = refusal(f"flash_attention_{version}")
    assert f"needs the package {package} and a GPU" in said
    assert had in said


@pytest.mark.parametrize("backend", backends.FLASH)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_flash_attention_on_the_cpu(
    backend: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "version", lambda package: "4.0.0b19")
    said = refusal(backend, dtype=dtype)
    assert f"runs on CUDA in float16 or bfloat16 only, not on cpu in {dtype}" in said


def test_flash_attention_in_float32_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "version", lambda package: "2.8.3")
    said = refusal("flash_attention_2", "cuda", torch.float32)
    assert "float16 or bfloat16 only, not on cuda in torch.float32" in said


@pytest.mark.parametrize(
    ("backend", "capability", "least"),
    [
        ("flash_attention_2", (7, 5), 8),
        ("flash_attention_3", (7, 5), 8),
        ("flash_attention_4", (8, 9), 9),
    ],
)
def test_flash_attention_on_too_old_a_gpu(
    backend: str, capability: tuple[int, int], least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "version", lambda package: "4.0.0b19")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    has = ".".join(map(str, capability))
    assert f"needs compute capability {least}.0 or higher, this GPU has {has}" in refusal(
        backend, "cuda"
    )


@pytest.mark.parametrize("backend", backends.FLASH)
def test_flash_attention_of_a_version_that_transformers_does_not_take(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "version", lambda package: "0.1")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    if backends._taken(backend):
        pytest.skip("it is installed")
    assert "transformers does not take the " in refusal(backend, "cuda")


def test_every_backend_is_named_where_one_is_unknown() -> None:
    known = (
        "sdpa, sdpa-flash, sdpa-cudnn, sdpa-efficient, flash_attention_2, flash_attention_3, "
        "flash_attention_4, eager"
    )
    for backend in ("flash", "SDPA", "sdpa_flash", ""):
        said = refusal(backend)
        assert said == f"unknown attention backend {backend!r}; known: {known}"


@pytest.mark.gpu
@pytest.mark.parametrize("backend", SDPA_KERNELS)
def test_each_kernel_of_torch_runs_on_a_gpu(backend: str) -> None:
    model = tpprof.load("tiny-llava", device="cuda", backend=backend, seed=1)
    free = tpprof.load("tiny-llava", device="cuda", seed=1)
    inputs = tpprof.inputs(free, new_tokens=3).to(free.device)
    logits = [run(each, inputs, parse("fastv:keep=64")).logits.float() for each in (model, free)]
    assert (logits[0] - logits[1]).norm() <= 0.05 * logits[1].norm()
