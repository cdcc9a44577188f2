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


class GpuDescription(Struct):
    """A GPU as NVML describes it: what lasts, and its clocks and limits as a run begins."""

    name: Annotated[str | None, about("Its name.")] = None
    uuid: Annotated[str | None, about("Its UUID, prefix and all; under MIG of the whole GPU.")] = (
        None
    )
    driver: Annotated[str | None, about("Version of the driver.")] = None
    cuda_driver: Annotated[str | None, about("Highest CUDA version of the driver.")] = None
    compute_capability: Annotated[str | None, about("CUDA compute capability.")] = None
    memory_bytes: Annotated[Count | None, about("All its memory.")] = None
    sm_clock_hz: Annotated[Amount | None, about("SM clock.")] = None
    sm_clock_max_hz: Annotated[Amount | None, about("Highest SM clock.")] = None
    sm_clock_application_hz: Annotated[
        Amount | None, about("SM clock that was set for applications.")
    ] = None
    memory_clock_hz: Annotated[Amount | None, about("Memory clock.")] = None
    memory_clock_max_hz: Annotated[Amount | None, about("Highest memory clock.")] = None
    memory_clock_application_hz: Annotated[
        Amount | None, about("Memory clock that was set for applications.")
    ] = None
    power_limit_watts: Annotated[Amount | None, about("Power limit that is enforced.")] = None
    power_limit_default_watts: Annotated[
        Amount | None, about("Power limit that the GPU comes with.")
    ] = None
    persistence: Annotated[
        bool | None, about("Whether the driver stays loaded between processes.")
    ] = None
    ecc: Annotated[bool | None, about("Whether memory errors are corrected.")] = None
    mig: Annotated[bool | None, about("Whether it is cut into slices (MIG).")] = None
    reasons: Annotated[dict[str, str], about("Why a field is unknown, by name.")] = {}
