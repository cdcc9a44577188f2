"""What NVML says of a GPU, from a fake one."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tpprof.profiler.meters.energy import energy_per_request
from tpprof.profiler.meters.nvml import Gpu, describe_gpu
from tpprof.reports.record.schema import Energy, GpuProcess, GpuState

CLOCKS = {"nvmlDeviceGetClockInfo", "nvmlDeviceGetMaxClockInfo"}
POWER = {"nvmlDeviceGetPowerUsage", "nvmlDeviceGetEnforcedPowerLimit"}
ENERGY = "nvmlDeviceGetTotalEnergyConsumption"
COMPUTE = "nvmlDeviceGetComputeRunningProcesses"
GRAPHICS = "nvmlDeviceGetGraphicsRunningProcesses"
EVENTS = "nvmlDeviceGetCurrentClocksEventReasons"


class FakeNvml:
    """NVML of a machine with one device, `name`. Calls in `refused` fail as NVML's do, those in
    `absent` are unknown to the package; `compute` and `graphics` are (pid, bytes) of processes."""

    def __init__(self, name: str = "GPU-abc", **settings: Any) -> None:
        self.name = name
        self.refused: set[str] = set(settings.get("refused", ()))
        self.absent: set[str] = set(settings.get("absent", ()))
        self.processes = {
            call: settings.get(key, [])
            for key, call in (("compute", COMPUTE), ("graphics", GRAPHICS))
        }
        self.reasons: int = settings.get("reasons", 0)
        self.millijoules = 5_000_000
        self.open = 0

    def __getattr__(self, call: str) -> Any:
        if call in self.absent or not call.startswith("nvml"):
            raise AttributeError(call)
        return lambda *arguments: self._answer(call, *arguments)

    def _answer(self, call: str, *arguments: Any) -> Any:
        if call in self.refused:
            raise RuntimeError("Not Supported")
        if call == "nvmlInit":
            self.open += 1
            return None
        if call == "nvmlShutdown":
            self.open -= 1
            return None
        if call == "nvmlDeviceGetHandleByUUID":
            if arguments != (self.name,):
                raise RuntimeError("Not Found")
            return "handle"
        assert self.open == 1
        assert arguments[0] == "handle"
        if call in self.processes:
            return [SimpleNamespace(pid=p, usedGpuMemory=b) for p, b in self.processes[call]]
        if call == "nvmlDeviceGetClockInfo":
            return {1: 1755, 2: 2619}[arguments[1]]
        return {
            "nvmlDeviceGetMaxClockInfo": 1980,
            "nvmlDeviceGetTemperature": 41,
            "nvmlDeviceGetTemperatureV": 42,
            "nvmlDeviceGetPowerUsage": 310_500,
            "nvmlDeviceGetEnforcedPowerLimit": 700_000,
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=3 * 2**30),
            EVENTS: self.reasons,
            "nvmlDeviceGetCurrentClocksThrottleReasons": self.reasons,
            ENERGY: self.millijoules,
        }[call]


def state(nvml: FakeNvml, own: tuple[int, ...] = (), has_context: bool = False) -> GpuState:
    with Gpu("abc", nvml) as gpu:
        return gpu.state(own, has_context)


def test_all_figures_in_si_units() -> None:
    nvml = FakeNvml()
    assert state(nvml) == GpuState(
        sm_clock_hz=1.755e9,
        sm_clock_max_hz=1.98e9,
        memory_clock_hz=2.619e9,
        temperature_celsius=41,
        power_watts=310.5,
        power_limit_watts=700,
        memory_bytes=3 * 2**30,
        throttled=[],
        others=[],
    )
    assert nvml.open == 0


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (0x0, []),
        (0x1 | 0x2 | 0x100, []),
        (0x1 | 0x4, ["software power cap"]),
        (0x8 | 0x40, ["hardware slowdown", "hardware thermal slowdown"]),
        (0x10 | 0x20 | 0x80, ["sync boost", "software thermal slowdown", "hardware power brake"]),
    ],
)
@pytest.mark.parametrize("how", ["refused", "absent", "new"])
def test_throttling_is_what_holds_a_busy_gpu_back(bits: int, names: list[str], how: str) -> None:
    assert state(FakeNvml(reasons=bits, **{how: {EVENTS}})).throttled == names


def test_a_renamed_call_is_found() -> None:
    assert state(FakeNvml(absent={"nvmlDeviceGetTemperature"})).temperature_celsius == 42


def test_a_mig_slice_says_what_it_can() -> None:
    refused = CLOCKS | POWER | {GRAPHICS, ENERGY}
    nvml = FakeNvml("MIG-abc", refused=refused, compute=[(7, 100)])
    found = state(nvml, own=(7,), has_context=True)
    assert found.memory_bytes == 3 * 2**30
    assert found.temperature_celsius == 41
    assert found.others == []
    unknown = {"sm_clock_hz", "sm_clock_max_hz", "memory_clock_hz", "power_watts"}
    unknown |= {"power_limit_watts"}
    for field in unknown:
        assert getattr(found, field) is None
    assert set(found.reasons) == unknown | {"others"}, "a list that may lack some says so"
    assert set(found.reasons.values()) == {"NVML: Not Supported"}


@pytest.mark.parametrize("call", ["nvmlInit", "nvmlDeviceGetHandleByUUID"])
def test_without_nvml_or_handle_all_is_unknown(call: str) -> None:
    nvml = FakeNvml(refused={call})
    with Gpu("abc", nvml) as gpu:
        assert nvml.open == 0
        _knows_nothing(gpu, "Not Supported")
    assert nvml.open == 0


def test_another_gpu_is_not_taken_for_this_one() -> None:
    with Gpu("xyz", FakeNvml()) as gpu:
        _knows_nothing(gpu, "GPU-xyz: Not Found; MIG-xyz: Not Found")


def test_no_gpu_no_package_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    _knows_nothing(Gpu(None), "no NVIDIA GPU")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    _knows_nothing(Gpu("abc"), "pynvml")
    nvml = FakeNvml()
    gpu = Gpu("abc", nvml)
    gpu.close()
    gpu.close()
    assert nvml.open == 0
    _knows_nothing(gpu, "closed")


def _knows_nothing(gpu: Gpu, reason: str) -> None:
    assert reason in gpu.reason
    found = gpu.state([1], True)
    figures = set(GpuState.__struct_fields__) - {"reasons"}
    assert all(getattr(found, field) is None for field in figures)
    assert set(found.reasons) == figures
    assert all(reason in why for why in found.reasons.values())
    joules, why = gpu.energy_joules()
    assert joules is None
    assert reason in why


def test_other_processes_once_each_without_our_own() -> None:
    nvml = FakeNvml(
        compute=[(7, 100), (30, None), (20, 5), (40, 2**64 - 1)], graphics=[(20, 5), (30, 9)]
    )
    found = state(nvml, own=(7, 8), has_context=True)
    assert found.others == [
        GpuProcess(pid=20, bytes=5),
        GpuProcess(pid=30, bytes=9),
        GpuProcess(pid=40, bytes=None),
    ]
    assert found.reasons == {}


def test_processes_that_may_not_be_seen_are_unknown_not_none() -> None:
    found = state(FakeNvml(refused={COMPUTE, GRAPHICS}))
    assert found.others is None
    assert found.reasons == {"others": "NVML: Not Supported"}


@pytest.mark.parametrize(
    ("listed", "others"), [([(900, 1)], []), ([(900, 1), (300, 2), (800, 3)], [300, 800])]
)
def test_pids_of_another_namespace(listed: list[tuple[int, int]], others: list[int]) -> None:
    found = state(FakeNvml(compute=listed), own=(7,), has_context=True)
    assert found.others is not None
    assert [other.pid for other in found.others] == others
    assert ("another namespace" in found.reasons.get("others", "")) == bool(others)
    without = state(FakeNvml(compute=listed), own=(7,), has_context=False)
    assert without.others is not None
    assert len(without.others) == len(listed), "we are not on the GPU, so all are strangers"
    assert without.reasons == {}


def test_a_list_without_even_ourselves_says_nothing() -> None:
    found = state(FakeNvml(), own=(7,), has_context=True)
    assert found.others is None
    assert "no process" in found.reasons["others"]


class Clock:
    """Time that passes when a request runs, and a counter that follows it."""

    def __init__(self, watts: float, seconds: float = 0.3) -> None:
        self.nvml = FakeNvml()
        self.at = 100.0
        self.watts = watts
        self.seconds = seconds
        self.waits = 0

    def request(self) -> None:
        self.at += self.seconds
        self.nvml.millijoules += int(self.watts * self.seconds * 1e3)

    def wait(self) -> None:
        self.waits += 1

    def energy(self, seconds: float) -> Energy:
        with Gpu("abc", self.nvml) as gpu:
            return energy_per_request(
                gpu, self.request, self.wait, seconds=seconds, now=lambda: self.at
            )


def test_energy_is_joules_per_request_over_a_long_window() -> None:
    clock = Clock(watts=200)
    energy = clock.energy(2.0)
    assert energy == Energy(joules=pytest.approx(60), requests=7, seconds=pytest.approx(2.1))
    assert clock.waits == 2, "once before the counter is read, and once after the last request"


@pytest.mark.parametrize(
    ("clock", "seconds", "reason"),
    [(Clock(watts=200), 0.5, "0.60 s"), (Clock(watts=0), 2.0, "did not advance")],
)
def test_energy_that_the_counter_cannot_tell(clock: Clock, seconds: float, reason: str) -> None:
    energy = clock.energy(seconds)
    assert energy.joules is None
    assert energy.requests > 0
    assert energy.seconds > 0
    assert reason in energy.reason


def test_energy_without_a_counter_runs_no_request() -> None:
    clock = Clock(watts=200)
    clock.nvml.refused = {ENERGY}
    assert clock.energy(2.0) == Energy(reason="NVML: Not Supported")
    assert clock.at == 100.0


def test_a_counter_lost_on_the_way_is_unknown() -> None:
    clock = Clock(watts=200)
    with Gpu("abc", clock.nvml) as gpu:
        energy = energy_per_request(gpu, gpu.close, clock.wait, seconds=0.0, now=lambda: clock.at)
    assert energy == Energy(requests=1, reason="NVML: closed")


def _uuid() -> str:
    return str(torch.cuda.get_device_properties(0).uuid)


def _multiply() -> None:
    one = torch.ones(4096, 4096, device="cuda")
    for _ in range(10):
        one = one @ one * 1e-4


@pytest.mark.gpu
def test_state_of_a_real_gpu() -> None:
    _multiply()
    with Gpu(_uuid()) as gpu:
        found = gpu.state([], True)
    assert found.memory_bytes or "memory_bytes" in found.reasons
    for field in set(GpuState.__struct_fields__) - {"reasons"}:
        assert (getattr(found, field) is None) <= (field in found.reasons)


@pytest.mark.gpu
def test_a_real_gpu_is_described() -> None:
    found = describe_gpu(_uuid())
    assert found.uuid or "uuid" in found.reasons
    assert not any("Expected" in reason for reason in found.reasons.values()), found.reasons


@pytest.mark.gpu
def test_energy_of_a_real_gpu_is_positive_or_unknown() -> None:
    with Gpu(_uuid()) as gpu:
        energy = energy_per_request(gpu, _multiply, torch.cuda.synchronize, seconds=1.5)
    assert (energy.joules is None) == bool(energy.reason)
    assert energy.joules is None or energy.joules > 0
