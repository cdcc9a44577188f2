"""The sampler, in processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from tpprof.profiler.meters import gpu_sampler
from tpprof.profiler.meters.clock import now
from tpprof.profiler.meters.gpu_sampler import Sampler
from tpprof.profiler.subprocesses import python
from tpprof.reports.record.schema import Telemetry

LINES = [
    {"at": 10.0, "sm": 1.9e9, "memory": 2.6e9, "temperature": 40, "power": 300, "throttled": []},
    {
        "at": 10.1,
        "sm": 1.2e9,
        "memory": 2.6e9,
        "temperature": 44,
        "power": 500,
        "throttled": ["sync boost", "hardware slowdown"],
    },
    {
        "at": 10.2,
        "sm": 1.8e9,
        "memory": 2.6e9,
        "temperature": 43,
        "power": 400,
        "throttled": ["sync boost"],
    },
    {"at": 11.0, "sm": None, "memory": None, "temperature": 30, "power": None, "throttled": None},
]


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


def test_the_highest_clock_is_that_of_all_readings() -> None:
    with Sampler("abc", 0.05, command=reader(lines(*LINES))) as watching:
        assert watching.highest_sm_hz == 1.9e9
    with Sampler("abc", 0.05, command=reader(lines(LINES[-1]))) as watching:
        assert watching.highest_sm_hz is None
    assert Sampler(None).highest_sm_hz is None


@pytest.mark.parametrize(
    ("clock", "marks"),
    [
        (1980e6, []),
        (1965e6, []),  # a power cap that shaves off 1 % for a moment, as on an H100
        (1920.6e6, []),
        (1920e6, ["throttled (software power cap)"]),
        (1200e6, ["throttled (software power cap)"]),
        (None, ["throttled (software power cap), by how much is unknown"]),
    ],
)
def test_throttling_is_a_mark_where_clocks_fell(clock: float | None, marks: list[str]) -> None:
    seen = Telemetry(
        readings=3,
        sm_clock_hz=clock,
        sm_clock_lowest_hz=1000e6,
        throttled=["software power cap"],
    )
    assert gpu_sampler.throttling(seen, 1980e6) == marks


def test_every_reason_is_a_mark_and_none_without_a_reason() -> None:
    seen = Telemetry(readings=1, sm_clock_hz=1e9, throttled=["hardware slowdown", "sync boost"])
    assert gpu_sampler.throttling(seen, 1.9e9) == [
        "throttled (hardware slowdown)",
        "throttled (sync boost)",
    ]
    assert gpu_sampler.throttling(Telemetry(readings=1, sm_clock_hz=1e9), 1.9e9) == []
    unknown = ["throttled (hardware slowdown), by how much is unknown"]
    seen = Telemetry(readings=1, sm_clock_hz=1e9, throttled=["hardware slowdown"])
    assert gpu_sampler.throttling(seen, None) == unknown


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
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)  # where tpprof may lie


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
    program = (
        "import sys; sys.modules['pynvml'] = None; import tpprof.profiler.meters.gpu_sampler as s; "
    )
    command = [sys.executable, "-c", program + "s.main('abc', 0.01)"]
    with Sampler("abc", 0.01, command=command) as watching:
        assert watching.telemetry(0, 1e12) is None
    assert "pynvml" in watching.reason


def _start(**streams: Any) -> subprocess.Popen[bytes]:
    command = python("from tpprof.profiler.meters.gpu_sampler import main; main('abc', 0.01)")
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
        assert msgspec.json.decode(line, type=gpu_sampler.GpuReading).sm == 40e6


@pytest.mark.usefixtures("packaged_nvml")
def test_the_real_sampler_ends_when_its_parent_is_gone() -> None:
    parent = (
        "import subprocess; from tpprof.profiler.subprocesses import python; "
        "subprocess.run(python('from tpprof.profiler.meters.gpu_sampler import main; '"
        "'main(\"abc\", 0.01)'))"
    )
    command = python(parent)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()  # the sampler's input stays open: only its parent is gone
        process.stdout.read()  # ends once nobody writes to it any more


def test_importing_it_imports_no_torch() -> None:
    program = (
        "import sys; sys.modules['torch'] = None; import tpprof.profiler.meters.gpu_sampler;"
        "print('scipy' in sys.modules, 'transformers' in sys.modules, 'pynvml' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["False"] * 3, done.stderr


@pytest.mark.gpu
def test_a_real_gpu_is_sampled_while_it_works() -> None:
    with Sampler(str(torch.cuda.get_device_properties(0).uuid), 0.02) as watching:
        began = now()
        while now() - began < 0.5:
            torch.ones(4096, 4096, device="cuda").square().sum()
            torch.cuda.synchronize()
        found = watching.telemetry(began, now())
    assert found is not None, watching.reason
    assert found.readings > 0
