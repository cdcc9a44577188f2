"""What NVML says of one GPU: clocks, heat, power, throttling, its other users, and its energy.

Every figure is asked for on its own: a MIG slice has no clocks, a container no names of its
neighbours. What cannot be known is None, with a reason, and never zero.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from ...reports.record.schema import GpuDescription, GpuProcess, GpuState
from .readers import Absent, Readers, module_or_absent, read_fields

THROTTLING = {
    0x04: "software power cap",
    0x08: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
"""The bits of NVML's clock reasons that hold a busy GPU back. Left out: idle, application clocks
and display settings, which are somebody's wish."""

_UNKNOWN_BYTES = 2**64 - 1  # NVML_VALUE_NOT_AVAILABLE
_SM_CLOCK, _MEMORY_CLOCK, _CHIP = 1, 2, 0  # NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU


class _Figure(NamedTuple):
    """How a field of GpuState is asked for: `calls` are names of one thing in order of
    preference, as packages and drivers rename it; `read` turns the answer into SI units."""

    calls: tuple[str, ...]
    arguments: tuple[int, ...]
    read: Callable[[Any], Any]


def _hertz(megahertz: int) -> float:
    return megahertz * 1e6


def _watts(milliwatts: int) -> float:
    return milliwatts * 1e-3


def _throttled(bits: int) -> list[str]:
    return [name for bit, name in THROTTLING.items() if bits & bit]


_CHANGING = {
    "sm_clock_hz": _Figure(("nvmlDeviceGetClockInfo",), (_SM_CLOCK,), _hertz),
    "memory_clock_hz": _Figure(("nvmlDeviceGetClockInfo",), (_MEMORY_CLOCK,), _hertz),
    "temperature_celsius": _Figure(
        ("nvmlDeviceGetTemperature", "nvmlDeviceGetTemperatureV"), (_CHIP,), float
    ),
    # The driver averages it over the last second on most GPUs since Ampere.
    "power_watts": _Figure(("nvmlDeviceGetPowerUsage",), (), _watts),
    "throttled": _Figure(
        ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"),
        (),
        _throttled,
    ),
}
_LASTING = {
    "sm_clock_max_hz": _Figure(("nvmlDeviceGetMaxClockInfo",), (_SM_CLOCK,), _hertz),
    "power_limit_watts": _Figure(("nvmlDeviceGetEnforcedPowerLimit",), (), _watts),
    "memory_bytes": _Figure(("nvmlDeviceGetMemoryInfo",), (), lambda memory: int(memory.used)),
}
_ENERGY = _Figure(
    ("nvmlDeviceGetTotalEnergyConsumption",), (), lambda millijoules: millijoules * 1e-3
)


class Gpu:
    """One GPU as NVML sees it; never raises, whatever is missing.

    uuid: as torch gives it (`torch.cuda.get_device_properties(device).uuid`), without prefix; None
    for no GPU. By UUID, as torch and NVML number the GPUs of a machine differently. nvml: the
    pynvml module, or what a test puts in its place. `reason` says why nothing at all is known, and
    is empty where NVML answers. NVML counts its users: `close` gives back what this one took.
    """

    def __init__(self, uuid: str | None, nvml: Any | None = None) -> None:
        self.reason = ""
        self._handle: Any = None
        self._library: Any = None
        if uuid is None:
            self.reason = "no NVIDIA GPU"
            return
        try:
            library = nvml or importlib.import_module("pynvml")
            library.nvmlInit()
        except Exception as error:  # no package, no driver, no permission
            self.reason = f"NVML: {error}"
            return
        self._library = library
        errors = []
        for name in (f"GPU-{uuid}", f"MIG-{uuid}"):
            try:
                self._handle = library.nvmlDeviceGetHandleByUUID(name)
                return
            except Exception as error:  # the other kind, a lost device, no permission
                errors.append(f"{name}: {error}")
        self.close()
        self.reason = f"NVML: {'; '.join(errors)}"

    def __enter__(self) -> Gpu:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of NVML; every later answer is None. Once is enough, more does no harm."""
        library, self._library, self._handle = self._library, None, None
        if library is not None:
            self.reason = "NVML: closed"
            with contextlib.suppress(Exception):
                library.nvmlShutdown()

    def reading(self) -> GpuState:
        """What changes from moment to moment: clocks in Hz, temperature, power in W, throttling.
        The rest is left None without a reason."""
        state = GpuState(reasons={})
        self._fill(state, _CHANGING)
        return state

    def state(self, own_pids: Collection[int], has_context: bool) -> GpuState:
        """All that NVML says of the GPU now.

        own_pids: processes of this run, no strangers to it. has_context: at least one of them has
        used the GPU already, so NVML must list it, if perhaps under another PID.
        """
        state = self.reading()
        self._fill(state, _LASTING)
        state.others, reason = self._others(own_pids, has_context)
        if reason:
            state.reasons["others"] = reason
        return state

    def energy_joules(self) -> tuple[float | None, str]:
        """Joules since the driver was loaded, and a reason where unknown."""
        return self._ask(_ENERGY)

    def _fill(self, state: GpuState, figures: dict[str, _Figure]) -> None:
        for field, figure in figures.items():
            value, reason = self._ask(figure)
            setattr(state, field, value)
            if value is None:
                state.reasons[field] = reason

    def _ask(self, figure: _Figure) -> tuple[Any, str]:
        if self._handle is None:
            return None, self.reason
        reason = f"NVML: this pynvml has no {figure.calls[0]}"
        for name in figure.calls:
            call = getattr(self._library, name, None)
            if call is None:
                continue
            try:
                return figure.read(call(self._handle, *figure.arguments)), ""
            except Exception as error:  # MIG, an older driver, no permission, a lost device
                reason = f"NVML: {error}"
        return None, reason

    def _others(
        self, own_pids: Collection[int], has_context: bool
    ) -> tuple[list[GpuProcess] | None, str]:
        """Processes on the GPU that are not ours, by PID; None or a doubt comes with a reason."""
        listed: dict[int, int | None] = {}
        reasons = []
        for call in (
            "nvmlDeviceGetComputeRunningProcesses",
            "nvmlDeviceGetGraphicsRunningProcesses",
        ):
            found, reason = self._ask(_Figure((call,), (), _bytes_by_pid))
            reasons += [reason] if found is None else []
            for pid, used in (found or {}).items():
                # A process in both lists is shown with the same memory twice.
                listed[pid] = max(
                    (b for b in (used, listed.get(pid)) if b is not None), default=None
                )
        if len(reasons) == 2:
            return None, reasons[0]
        others = [
            GpuProcess(pid=pid, bytes=listed[pid]) for pid in sorted(listed.keys() - {*own_pids})
        ]
        if not has_context or len(others) < len(listed):
            return others, "; ".join(reasons)
        if not listed:
            return None, "; ".join([*reasons, "NVML lists no process, not even this one"])
        if len(others) > 1:
            reasons.append(
                "NVML gives PIDs of another namespace, as in a container: one of the processes it "
                "lists is this one, and the last was left out for it"
            )
        return others[:-1], "; ".join(reasons)


def _bytes_by_pid(processes: Any) -> dict[int, int | None]:
    found: dict[int, int | None] = {}
    for process in processes:
        used = process.usedGpuMemory
        found[int(process.pid)] = None if used in (None, _UNKNOWN_BYTES) else int(used)
    return found


def describe_gpu(uuid: str, nvml: Any | None = None) -> GpuDescription:
    """What lasts of the GPU with this UUID; never raises, whatever is missing. See Gpu."""
    library = nvml or module_or_absent("pynvml")
    try:
        library.nvmlInit()
    except Exception as error:  # no package, no driver, no permission
        library = Absent(f"NVML: {error}")
    figures = read_fields(GpuDescription, _describing(uuid, library))
    with contextlib.suppress(Exception):
        library.nvmlShutdown()
    return GpuDescription(**figures)


def _describing(uuid: str, nvml: Any) -> Readers:
    @functools.cache
    def gpu() -> Any:
        try:
            return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        except Exception:  # under MIG torch gives the UUID of the slice
            part = nvml.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}")
            return nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(part)

    def ask(what: str, *arguments: int) -> Any:
        return getattr(nvml, f"nvmlDeviceGet{what}")(gpu(), *arguments)

    def cuda() -> str:
        major, rest = divmod(nvml.nvmlSystemGetCudaDriverVersion_v2(), 1000)
        return f"{major}.{rest // 10}"

    return {
        "name": lambda: ask("Name"),
        "uuid": lambda: ask("UUID"),
        "driver": lambda: nvml.nvmlSystemGetDriverVersion(),
        "cuda_driver": cuda,
        "compute_capability": lambda: ".".join(map(str, ask("CudaComputeCapability"))),
        "memory_bytes": lambda: ask("MemoryInfo").total,
        "sm_clock_hz": lambda: ask("ClockInfo", _SM_CLOCK) * 1e6,
        "sm_clock_max_hz": lambda: ask("MaxClockInfo", _SM_CLOCK) * 1e6,
        "sm_clock_application_hz": lambda: ask("ApplicationsClock", _SM_CLOCK) * 1e6,
        "memory_clock_hz": lambda: ask("ClockInfo", _MEMORY_CLOCK) * 1e6,
        "memory_clock_max_hz": lambda: ask("MaxClockInfo", _MEMORY_CLOCK) * 1e6,
        "memory_clock_application_hz": lambda: ask("ApplicationsClock", _MEMORY_CLOCK) * 1e6,
        "power_limit_watts": lambda: ask("EnforcedPowerLimit") / 1e3,
        "power_limit_default_watts": lambda: ask("PowerManagementDefaultLimit") / 1e3,
        "persistence": lambda: bool(ask("PersistenceMode")),
        "ecc": lambda: bool(ask("EccMode")[0]),
        "mig": lambda: bool(ask("MigMode")[0]),
    }
