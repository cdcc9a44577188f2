"""Counting what a request asks of the host and of the device, from real and made-up traces."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tpprof.methods.engine.context import Lap
from tpprof.profiler.meters import flop_counter, torch_profile

HOST, DEVICE = 11, 7


def mark(at: float, name: str) -> dict[str, Any]:
    return {
        "cat": "user_annotation",
        "name": torch_profile.MARK + name,
        "ts": at,
        "dur": 0.5,
        "tid": HOST,
    }


def operator(at: float, length: float, name: str = "aten::mm", tid: int = HOST) -> dict[str, Any]:
    return {"cat": "cpu_op", "name": name, "ts": at, "dur": length, "tid": tid, "args": {}}


def call(at: float, name: str, correlation: int = 0) -> dict[str, Any]:
    return {
        "cat": "cuda_runtime",
        "name": name,
        "ts": at,
        "dur": 1.0,
        "tid": HOST,
        "args": {"correlation": correlation},
    }


def ran(at: float, length: float, correlation: int, category: str = "kernel") -> dict[str, Any]:
    return {
        "cat": category,
        "name": "k",
        "ts": at,
        "dur": length,
        "tid": DEVICE,
        "args": {"correlation": correlation},
    }


@pytest.fixture
def events() -> list[dict[str, Any]]:
    """Prefill of two layers from 0 to 100 us, decode until 200 us; the device lags behind."""
    attention = "aten::_scaled_dot_product_flash_attention"
    return [
        mark(0, "start|start|"),
        operator(10, 20, "aten::linear"),
        operator(12, 5, "aten::mm"),
        operator(40, 10, "aten::scaled_dot_product_attention"),
        operator(42, 6, attention),
        operator(44, 3, "aten::_flash_attention_forward"),
        operator(15, 2, tid=HOST + 1),  # another thread
        call(13, "cudaLaunchKernel", 1),
        call(43, "cuLaunchKernelEx", 2),
        call(46, "cudaStreamSynchronize"),
        mark(60, "prefill|layer|0"),
        call(70, "cudaMemcpyAsync", 3),
        call(75, "cudaMemcpy", 4),
        operator(80, 5, "aten::softmax"),
        mark(100, "prefill|layer|1"),
        call(110, "cudaGraphLaunch", 5),
        call(190, "cudaDeviceSynchronize"),
        mark(200, "decode|token|0"),
        ran(30, 40, 1),
        ran(60, 20, 2),  # overlaps the first, on another stream
        ran(150, 10, 3, "gpu_memcpy"),  # runs in decode, was asked for in prefill
        ran(160, 10, 5),
        ran(170, 10, 5),
        ran(250, 10, 99),  # launched outside the request
        call(300, "cudaDeviceSynchronize"),  # after the last mark
    ]


def test_what_the_host_asked_for_belongs_to_the_part_that_was_under_way(
    events: list[dict[str, Any]],
) -> None:
    parts, kernels, _ = torch_profile.analyse(events, on_gpu=True)
    assert [(part.phase, part.part, part.index) for part in parts] == [
        ("prefill", "layer", 0),
        ("prefill", "layer", 1),
        ("decode", "token", 0),
    ]
    assert [part.operators for part in parts] == [2, 1, 0]
    assert [part.launches for part in parts] == [2, 0, 1]
    assert [part.syncs for part in parts] == [1, 1, 1]
    assert kernels == ["aten::_flash_attention_forward", "softmax map"]


def test_what_the_device_did_belongs_to_the_part_that_launched_it(
    events: list[dict[str, Any]],
) -> None:
    first, second, decode = torch_profile.analyse(events, on_gpu=True)[0]
    assert (first.kernels, second.kernels, decode.kernels) == (2, 0, 2)
    assert first.busy_seconds == pytest.approx(50e-6), "overlap counts once"
    assert second.busy_seconds == pytest.approx(10e-6)
    assert decode.busy_seconds == pytest.approx(20e-6)


def test_an_attention_that_is_not_recognised_is_unknown(events: list[dict[str, Any]]) -> None:
    plain = [event for event in events if "attention" not in event["name"]]
    assert torch_profile.analyse(plain, on_gpu=True)[1] == ["unknown", "softmax map"]


def test_kinds_of_kernel_by_phase(events: list[dict[str, Any]]) -> None:
    assert torch_profile.analyse(events, on_gpu=True)[2] == {"prefill": ["flash", "softmax map"]}


NO_ATTENTION = [
    "nvjet_tst_64x8_64x16_4x1_v_bz_TNT",
    "void cudnn::engines_precompiled::nchwToNhwcKernel<__nv_bfloat16, __nv_bfloat16, float, false",
    "void cutlass__5x_cudnn::Kernel<cutlass_tensorop_bf16_s16816fprop_optimized_bf16_128x128_32x5",
]
"""Kernels as an H100 ran them; cuDNN's are those of a convolution."""


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128", "cuDNN"),
        ("void pytorch_flash::flash_fwd_splitkv_kernel<pytorch_flash::Flash_fwd_kernel", "flash"),
        ("fmha_cutlassF_bf16_aligned_64x128_rf_sm80(PyTorchMemEffAttention::A", "memory-efficient"),
        ("void at::native::(anonymous namespace)::cunn_SoftMaxForwardReg<float, f", "softmax map"),
    ],
)
def test_what_a_graph_replays_is_known_by_what_ran(kernel: str, kind: str) -> None:
    events = [
        mark(0, "start|start|"),
        operator(10, 5, "aten::_scaled_dot_product_cudnn_attention"),
        mark(20, "prefill|layer|0"),
        call(30, "cudaGraphLaunch", 1),
        mark(40, "decode|token|0"),
        {**ran(50, 5, 1), "name": kernel},
        *({**ran(60 + i, 1, 1), "name": name} for i, name in enumerate(NO_ATTENTION)),
    ]
    kinds = torch_profile.analyse(events, on_gpu=True)[2]
    assert kinds == {"prefill": ["cuDNN"], "decode": [kind]}


def test_the_softmax_of_a_decision_is_no_attention_of_a_layer() -> None:
    events = [
        mark(0, "start|start|"),
        operator(5, 2, "aten::softmax"),
        mark(10, "prefill|score|0"),
        operator(12, 8, "aten::scaled_dot_product_attention"),
        operator(13, 5, "aten::_scaled_dot_product_attention_math"),
        operator(14, 2, "aten::_softmax"),
        mark(30, "prefill|layer|0"),
        operator(35, 5, "aten::scaled_dot_product_attention"),
        mark(50, "decode|token|0"),
    ]
    kinds = torch_profile.analyse(events, on_gpu=True)[2]
    assert kinds == {"prefill": ["math"], "decode": ["unknown"]}


def test_without_a_gpu_there_are_operators_alone(events: list[dict[str, Any]]) -> None:
    prefill, *_ = torch_profile.analyse(events, on_gpu=False)[0]
    assert prefill.operators == 2
    assert prefill.launches is prefill.syncs is prefill.busy_seconds is None


def test_a_real_trace_counts_what_torch_was_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    def request(lap: Lap) -> None:
        torch.ones(3) + 1  # aten::ones, aten::add
        lap("vision", "tower")
        for step in range(2):
            torch.zeros(2).sum()  # aten::zeros, aten::sum
            lap("decode", "token", step)
        torch.ones(3)  # after the last part

    counted, kernels, kinds = torch_profile.count(torch.device("cpu"), request)
    assert [(part.phase, part.index, part.operators) for part in counted] == [
        ("vision", None, 2),
        ("decode", 0, 2),
        ("decode", 1, 2),
    ]
    assert kernels == []
    assert kinds == {}
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("heads_of_keys", [8, 2, 1])
@pytest.mark.parametrize(
    ("operator", "arguments"),
    [
        ("_scaled_dot_product_flash_attention", ()),
        ("_scaled_dot_product_efficient_attention", (None, False)),
        ("_scaled_dot_product_cudnn_attention", (None, False)),
        ("_scaled_dot_product_flash_attention_for_cpu", ()),
        ("_scaled_dot_product_fused_attention_overrideable", ()),
    ],
)
def test_flops_of_attention_are_those_of_the_heads_of_its_queries(
    operator: str, arguments: tuple[Any, ...], heads_of_keys: int
) -> None:
    """Whatever the heads share: 8 heads score 5 queries against 9 keys of 16 numbers, and sum 9
    values of 16 for each, in 2 samples. A MAC is 2 FLOPs."""
    query = torch.empty(2, 8, 5, 16, dtype=torch.bfloat16, device="meta")
    key = torch.empty(2, heads_of_keys, 9, 16, dtype=torch.bfloat16, device="meta")

    def request(lap: Lap) -> None:
        getattr(torch.ops.aten, operator)(query, key, key, *arguments)
        lap("prefill", "layer", 0)

    counted = flop_counter.flops(request)
    assert counted.by_phase == {"prefill": 2 * 8 * (5 * 9 * 16 + 5 * 9 * 16) * 2}
    assert counted.uncounted == []


@pytest.mark.parametrize("heads_of_keys", [8, 2])
def test_flops_of_torchs_attention_on_a_cpu(heads_of_keys: int) -> None:
    query, key = torch.ones(2, 8, 5, 16), torch.ones(2, heads_of_keys, 9, 16)

    def request(lap: Lap) -> None:
        torch.nn.functional.scaled_dot_product_attention(
            query, key, key, enable_gqa=heads_of_keys < 8
        )
        lap("decode", "token", 0)

    counted = flop_counter.flops(request)
    assert counted.by_phase == {"decode": 2 * 8 * (5 * 9 * 16 + 5 * 9 * 16) * 2}


@pytest.mark.gpu
def test_a_real_gpu_trace_sees_launches_waits_and_busy_time() -> None:
    device = torch.device("cuda")
    values = torch.ones(4096, 4096, device=device)
    values @ values

    def request(lap: Lap) -> None:
        values @ values
        lap("prefill", "layer", 0)
        (values + 1).sum().item()
        lap("decode", "token", 0)

    (prefill, decode), *_ = torch_profile.count(device, request)
    assert prefill.launches == prefill.kernels == 1
    assert prefill.syncs == 0
    assert prefill.busy_seconds is not None
    assert prefill.busy_seconds > 1e-5
    assert decode.launches == 2
    assert decode.syncs == 1
