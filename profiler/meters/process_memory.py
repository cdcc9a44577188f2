"""Memory as this process sees it: its resident peak, and torch's allocator. Needs torch alone: it
runs in probes too."""

from __future__ import annotations

import contextlib
import ctypes
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def resident_peak() -> int | None:
    """Peak resident memory of this process since the last reset, bytes; None where unknown."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
    except OSError:
        return None
    return int(found.group(1)) * 1024 if found else None


def reset_resident_peak() -> bool:
    """Give freed memory back to the system, then let the peak start at what is left."""
    with contextlib.suppress(AttributeError, OSError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


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


def allocator_peak(
    device: Any, request: Callable[[Any], Any], foreign: int = 0
) -> tuple[dict[str, int], Any]:
    """Run `request` once, handing it a lap function: peak bytes of torch's CUDA allocator by phase,
    less the `foreign` ones that were there before, and the result."""
    (by_phase,), result = allocator_peaks([device], request, [foreign])
    return by_phase, result


def allocator_peaks(
    devices: Sequence[Any], request: Callable[[Any], Any], foreign: Sequence[int]
) -> tuple[list[dict[str, int]], Any]:
    """The same of a request over several devices, for each of them."""
    import torch

    found: list[dict[str, int]] = [{} for _ in devices]

    def lap(phase: str, part: str, index: int | None = None) -> None:
        for device, by_phase, others in zip(devices, found, foreign, strict=True):
            reached = torch.cuda.max_memory_allocated(device) - others
            by_phase[phase] = max(by_phase.get(phase, 0), reached)
            torch.cuda.reset_peak_memory_stats(device)

    for device in devices:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    result = request(lap)
    for device in devices:
        torch.cuda.synchronize(device)
    return found, result


def resident_now() -> int:
    """Resident memory of this process by now, bytes, what it freed given back; 0 where unknown."""
    with contextlib.suppress(AttributeError, OSError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)
    try:
        found = re.search(r"VmRSS:\s+(\d+) kB", _STATUS.read_text())
    except OSError:
        return 0
    return int(found.group(1)) * 1024 if found else 0
