"""What NVML says of a GPU."""

from __future__ import annotations

from typing import Annotated

from .base import Amount, Count, Struct, about


class Telemetry(Struct):
    """What the GPU did during one sample, read from NVML by another process."""

    readings: Annotated[
        Count, about("Readings that fell into the sample; where 0, all else is unknown.")
    ]
    sm_clock_hz: Annotated[Amount | None, about("SM clock, median.")] = None
    sm_clock_lowest_hz: Annotated[Amount | None, about("SM clock, lowest.")] = None
    memory_clock_hz: Annotated[Amount | None, about("Memory clock, median.")] = None
    temperature_celsius: Annotated[float | None, about("Temperature, highest.")] = None
    power_watts: Annotated[Amount | None, about("Power, mean.")] = None
    throttled: Annotated[list[str], about("Why clocks were held back: every reason seen.")] = []
    others: Annotated[list[Count], about("PIDs of other processes on the GPU.")] = []


class GpuProcess(Struct):
    """Another process on the GPU."""

    pid: Annotated[Count, about("Its PID, as the driver gives it.")]
    bytes: Annotated[Count | None, about("GPU memory that it uses, unless it is hidden.")] = None


class GpuState(Struct):
    """The GPU at one moment."""

    sm_clock_hz: Annotated[Amount | None, about("SM clock.")] = None
    sm_clock_max_hz: Annotated[Amount | None, about("Highest SM clock.")] = None
    memory_clock_hz: Annotated[Amount | None, about("Memory clock.")] = None
    temperature_celsius: Annotated[float | None, about("Temperature of the chip.")] = None
    power_watts: Annotated[Amount | None, about("Power drawn.")] = None
    power_limit_watts: Annotated[Amount | None, about("Power limit that is enforced.")] = None
    memory_bytes: Annotated[Count | None, about("Memory in use, by all processes.")] = None
    throttled: Annotated[list[str] | None, about("Why clocks are held back.")] = None
    others: Annotated[list[GpuProcess] | None, about("Other processes on the GPU.")] = None
    reasons: Annotated[dict[str, str], about("Why a field is unknown or doubtful, by name.")] = {}
