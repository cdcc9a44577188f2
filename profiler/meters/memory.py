"""Peak memory of one request: allocator and NVML on a GPU, resident memory of the process on CPU.

Measured in a pass of its own, never in a timed one. What cannot be known is None, with a reason.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ...methods.engine.context import Lap, no_lap
from .nvml import Gpu

Result = TypeVar("Result")

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


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
    reset = _reset_resident_peak()
    result = request(no_lap)
    if not reset:
        reasons["resident"] = "this system does not let the peak be reset"
    return Peak(None, {}, resident_peak() if reset else None, None, reasons), result


def resident_peak() -> int | None:
    """Peak resident memory of this process since the last reset, bytes; None where unknown."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
    except OSError:
        return None
    return int(found.group(1)) * 1024 if found else None


def device_memory(uuid: str, nvml: Any | None = None) -> tuple[int | None, str]:
    """Bytes in use on the GPU with this UUID by all processes, and a reason where unknown.

    By UUID: torch and NVML number the GPUs of a machine differently.
    """
    with Gpu(uuid.removeprefix("GPU-"), nvml) as gpu:
        state = gpu.state([], has_context=False)
    return state.memory_bytes, state.reasons.get("memory_bytes", "")


def allocations(device: Any) -> dict[str, int]:
    """How often torch's allocator asked the driver so far: cudaMalloc calls, and retries after
    freeing its cache. Empty on a CPU, or where this torch does not count them."""
    if device.type != "cuda":
        return {}
    import torch

    stats = torch.cuda.memory_stats(device)
    named = {"cudaMalloc": "num_device_alloc", "allocator retry": "num_alloc_retries"}
    return {name: int(stats[key]) for name, key in named.items() if key in stats}


def allocated(device: Any) -> int:
    """Bytes that torch's CUDA allocator has given out; 0 on a CPU, which has no such allocator."""
    if device.type != "cuda":
        return 0
    import torch

    return int(torch.cuda.memory_allocated(device))


def _gpu_peak(device: Any, request: Callable[[Lap], Result], foreign: int) -> tuple[Peak, Result]:
    import torch

    by_phase: dict[str, int] = {}

    def lap(phase: str, part: str, index: int | None = None) -> None:
        reached = torch.cuda.max_memory_allocated(device) - foreign
        by_phase[phase] = max(by_phase.get(phase, 0), reached)
        torch.cuda.reset_peak_memory_stats(device)

    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    result = request(lap)
    torch.cuda.synchronize(device)
    used, reason = device_memory(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    reasons = {"resident": "measured on CPU only"}
    if used is None:
        reasons["device"] = reason
    return Peak(max(by_phase.values(), default=None), by_phase, None, used, reasons), result


def _reset_resident_peak() -> bool:
    """Give freed memory back to the system, then let the peak start at what is left."""
    with contextlib.suppress(AttributeError, OSError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True
