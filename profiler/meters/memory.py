"""Peak memory of one request: allocator and NVML on a GPU, resident memory of the process on CPU.

Measured in a pass of its own, never in a timed one. What cannot be known is None, with a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ...methods.engine.context import Lap, no_lap
from ...reports.record.cell import DeviceMemory
from .nvml import Gpu
from .process_memory import allocator_peaks, reset_resident_peak, resident_peak

Result = TypeVar("Result")


@dataclass(frozen=True)
class Peak:
    """Bytes. allocator: peak of torch's CUDA allocator, per phase and in all. resident: peak
    resident memory of the process (CPU). device: memory in use on the whole GPU after the request
    (NVML). `reasons` says why a figure is None. devices: each of those that a request goes over,
    where they are several; the figures above are their sums then, and each phase is that of the
    devices together."""

    allocator: int | None
    allocator_by_phase: dict[str, int]
    resident: int | None
    device: int | None
    reasons: dict[str, str]
    devices: list[DeviceMemory] = field(default_factory=list)


def peak(
    devices: Sequence[Any], request: Callable[[Lap], Result], foreign: Sequence[int] = ()
) -> tuple[Peak, Result]:
    """Run `request` once, handing it a lap function; returns its peak memory and its result.

    devices: those over which it goes, one after another; mostly one. foreign: bytes that other
    cells hold in the allocator of each, which are not this one's.
    """
    if devices[0].type == "cuda":
        return _gpu_peak(devices, request, foreign or [0] * len(devices))
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


def _gpu_peak(
    devices: Sequence[Any], request: Callable[[Lap], Result], foreign: Sequence[int]
) -> tuple[Peak, Result]:
    import torch

    found, result = allocator_peaks(devices, request, foreign)
    reasons, each = {"resident": "measured on CPU only"}, []
    for device, by_phase in zip(devices, found, strict=True):
        uuid = str(torch.cuda.get_device_properties(device).uuid)
        used, reason = device_memory(f"GPU-{uuid}")
        if used is None:
            reasons["device"] = reason
        highest = max(by_phase.values(), default=None)
        each.append(DeviceMemory(name=str(device), uuid=uuid, allocator=highest, device=used))
    by_phase = {phase: sum(one[phase] for one in found) for phase in found[0]}
    peak = Peak(
        allocator=_summed([one.allocator for one in each]),
        allocator_by_phase=by_phase,
        resident=None,
        device=_summed([one.device for one in each]),
        reasons=reasons,
        devices=each if len(each) > 1 else [],
    )
    return peak, result


def _summed(figures: list[int | None]) -> int | None:
    """Of all devices; None where one is unknown."""
    known = [figure for figure in figures if figure is not None]
    return sum(known) if len(known) == len(figures) else None
