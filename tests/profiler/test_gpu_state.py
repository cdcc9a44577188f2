"""What NVML says of a GPU, from a fake one; the sampler, in processes of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch

from tpprof.profiler import sampler
from tpprof.profiler.child import python
from tpprof.profiler.clock import now
from tpprof.profiler.gpu import Gpu, energy_per_request
from tpprof.profiler.sampler import Sampler
from tpprof.reports.record import Energy, GpuProcess, GpuState, Telemetry

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
        self.processes = {call: settings.get(key, []) for key, call in
                          (("compute", COMPUTE), ("graphics", GRAPHICS))}  # fmt: skip
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


# --- the sampler -----------------------------------------------------------------------------

LINES = [
    {"at": 10.0, "sm": 1.9e9, "memory": 2.6e9, "temperature": 40, "power": 300, "throttled": []},
    {"at": 10.1, "sm": 1.2e9, "memory": 2.6e9, "temperature": 44, "power": 500,
     "throttled": ["sync boost", "hardware slowdown"]},
    {"at": 10.2, "sm": 1.8e9, "memory": 2.6e9, "temperature": 43, "power": 400,
     "throttled": ["sync boost"]},
    {"at": 11.0, "sm": None, "memory": None, "temperature": 30, "power": None, "throttled": None},
]  # fmt: skip


def reader(text: str, then: str = "sys.stdin.read()") -> list[str]:
    """The command of a sampler that says `text` and stays until its input closes."""
    return [sys.executable, "-c", f"import sys; print({text!r}, end='', flush=True); {then}"]


def lines(*readings: object) -> str:
    return "".join(msgspec.json.encode(reading).decode() + "\n" for reading in readings)


def test_telemetry_summarises_the_readings_of_a_window() -> None:
    with Sampler("abc", 0.05, command=reader(lines(*LINES))) as watching:
        assert watching.reason == ""
        assert watching.telemetry(9.99, 10.21) == Telemetry(
            readings=3,
            sm_clock_hz=1.8e9,
            sm_clock_lowest_hz=1.2e9,
            memory_clock_hz=2.6e9,
            temperature_celsius=44,
            power_watts=pytest.approx(400),
            throttled=["hardware slowdown", "sync boost"],
        )
        assert watching.telemetry(10.0, 10.0) is not None
    assert watching.telemetry(10.9, 11.1) == Telemetry(readings=1, temperature_celsius=30)


@pytest.mark.parametrize(
    ("began", "ended", "power"),
    [
        (10.12, 10.14, 500),
        (10.16, 10.18, 400),
        (9.90, 9.96, 300),
        (10.22, 10.24, 400),
        (10.4, 10.8, None),
        (1.0, 2.0, None),
        (20.0, 21.0, None),
    ],
)
def test_the_nearest_reading_stands_in_for_one_interval(
    began: float, ended: float, power: float | None
) -> None:
    with Sampler("abc", 0.05, command=reader(lines(*LINES))) as watching:
        found = watching.telemetry(began, ended)
    assert found is not None
    assert found.readings == (power is not None)
    assert found.power_watts == power


def test_half_a_line_is_not_read_yet() -> None:
    with Sampler("abc", command=reader(lines(LINES[0]) + '{"at": 10.')) as watching:
        found = watching.telemetry(0, 20)
    assert found is not None
    assert found.readings == 1


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (reader("GPU-abc: Not Found\n", then="sys.exit(1)"), "GPU-abc: Not Found"),
        (reader("", then="0"), "no reading"),
        (["/no/such/reader"], "could not be started"),
    ],
)
def test_a_sampler_that_gives_nothing_says_why(command: list[str], reason: str) -> None:
    with Sampler("abc", command=command) as watching:
        assert watching.telemetry(0, 20) is None
        assert reason in watching.reason
    assert watching.telemetry(0, 20) is None


def test_no_gpu_no_sampler() -> None:
    with Sampler(None) as watching:
        assert watching.telemetry(0, 20) is None
    assert watching.reason == "no NVIDIA GPU"


def test_a_silent_sampler_is_not_waited_for_for_ever() -> None:
    with Sampler("abc", command=reader(""), patience=0.0) as watching:
        assert watching.telemetry(0, 20) is None
        assert "no reading" in watching.reason


@pytest.mark.parametrize("interval", [0.0099, 0, -1, float("nan")])
def test_too_short_an_interval_is_refused(interval: float) -> None:
    with pytest.raises(ValueError, match=r"0\.01 s"):
        Sampler("abc", interval)


def test_closing_ends_the_process() -> None:
    watching = Sampler("abc", command=reader(lines(LINES[0])))
    with watching:
        process = watching._process
        assert process is not None
        assert process.poll() is None
    assert process.poll() is not None
    watching.close()


@pytest.fixture
def packaged_nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pynvml that other processes import; it forbids torch there."""
    answers = """
import sys
sys.modules["torch"] = None
def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    if name == "nvmlDeviceGetPowerUsage":
        raise AttributeError(name)
    return lambda *arguments: 4 if "Reasons" in name else 40
"""
    (tmp_path / "pynvml.py").write_text(answers)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.usefixtures("packaged_nvml")
def test_the_real_sampler_reads_nvml_on_the_clock_of_this_process() -> None:
    began = now()
    with Sampler("abc", 0.01) as watching:
        assert watching.reason == ""
        found = watching.telemetry(began, now())
    assert found is not None
    assert found.readings >= 1
    assert found.sm_clock_hz == 40e6
    assert found.temperature_celsius == 40
    assert found.power_watts is None
    assert found.throttled == ["software power cap"]


def test_the_real_sampler_without_nvml_says_why() -> None:
    program = "import sys; sys.modules['pynvml'] = None; import tpprof.profiler.sampler as s; "
    command = [sys.executable, "-c", program + "s.main('abc', 0.01)"]
    with Sampler("abc", 0.01, command=command) as watching:
        assert watching.telemetry(0, 1e12) is None
    assert "pynvml" in watching.reason


def _start(**streams: Any) -> subprocess.Popen[bytes]:
    command = python("from tpprof.profiler.sampler import main; main('abc', 0.01)")
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **streams)


@pytest.mark.usefixtures("packaged_nvml")
@pytest.mark.parametrize("how", ["input", "terminate"])
def test_the_real_sampler_ends_silently(how: str) -> None:
    with _start(stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        first = process.stdout.readline()
        process.stdin.close() if how == "input" else process.terminate()
        said = [first, *process.stdout.read().splitlines()]
    assert process.returncode == 0 or how == "terminate"
    for line in said:
        assert msgspec.json.decode(line, type=sampler.Reading).sm == 40e6


@pytest.mark.usefixtures("packaged_nvml")
def test_the_real_sampler_ends_when_its_parent_is_gone() -> None:
    parent = (
        "import subprocess; from tpprof.profiler.child import python; "
        "subprocess.run(python('from tpprof.profiler.sampler import main; main(\"abc\", 0.01)'))"
    )
    command = python(parent)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()  # the sampler's input stays open: only its parent is gone
        process.stdout.read()  # ends once nobody writes to it any more


def test_importing_it_imports_no_torch() -> None:
    program = (
        "import sys; sys.modules['torch'] = None; import tpprof.profiler.sampler;"
        "print('scipy' in sys.modules, 'transformers' in sys.modules, 'pynvml' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["False"] * 3, done.stderr


# --- on a real GPU ---------------------------------------------------------------------------


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
def test_a_real_gpu_is_sampled_while_it_works() -> None:
    with Sampler(_uuid(), 0.02) as watching:
        began = now()
        while now() - began < 0.5:
            _multiply()
            torch.cuda.synchronize()
        found = watching.telemetry(began, now())
    assert found is not None, watching.reason
    assert found.readings > 0


@pytest.mark.gpu
def test_energy_of_a_real_gpu_is_positive_or_unknown() -> None:
    with Gpu(_uuid()) as gpu:
        energy = energy_per_request(gpu, _multiply, torch.cuda.synchronize, seconds=1.5)
    assert (energy.joules is None) == bool(energy.reason)
    assert energy.joules is None or energy.joules > 0
