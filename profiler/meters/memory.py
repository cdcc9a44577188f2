"""Peak memory of one request: allocator and NVML on a GPU, resident memory of the process on CPU.

Measured in a pass of its own, never in a timed one. What cannot be known is None, with a reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from ...methods.engine.context import Lap, no_lap
from .nvml import Gpu
from .process_memory import allocator_peak, reset_resident_peak, resident_peak

Result = TypeVar("Result")


@dataclass(frozen=True)
class Peak:
    """Bytes. allocator: peak of torch's CUDA allocator, per phase and in all. resident: peak
    resident memory of the process (CPU). device: memory in use on the whole GPU after the request
    (NVML). `reasons` says why a figure is None."""

    allocator: int | None
    allocator_by_phase: dict[str, int]
    resident: int | None
    device: int | None
    reasons: dict[str, str]


def peak(device: Any, request: Callable[[Lap], Result], foreign: int = 0) -> tuple[Peak, Result]:
    """Run `request` once, handing it a lap function; returns its peak memory and its result.

    foreign: bytes that other cells hold in the allocator, which are not this one's.
    """
    if device.type == "cuda":
        return _gpu_peak(device, request, foreign)
    reasons = {"allocator": "no CUDA device", "device": "no CUDA device"}
    reset = reset_resident_peak()
    result = request(no_lap)
    if not reset:
        reasons["resident"] = "this system does not let the peak be reset"
    return Peak(None, {}, resident_peak() if reset else None, None, reasons), result


def device_memory(uuid: str, nvml: Any | None = None) -> tuple[int | None, str]:
    """Bytes in use on the GPU with this UUID by all processes, and a reason where unknown.

    By UUID: torch and NVML number the GPUs of a machine differently.
    """
    with Gpu(uuid.removeprefix("GPU-"), nvml) as gpu:
        state = gpu.state([], has_context=False)
    return state.memory_bytes, state.reasons.get("memory_bytes", "")


def _gpu_peak(device: Any, request: Callable[[Lap], Result], foreign: int) -> tuple[Peak, Result]:
    import torch

    by_phase, result = allocator_peak(device, request, foreign)
    used, reason = device_memory(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    reasons = {"resident": "measured on CPU only"}
    if used is None:
        reasons["device"] = reason
    return Peak(max(by_phase.values(), default=None), by_phase, None, used, reasons), result
