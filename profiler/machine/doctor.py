"""What would spoil a measurement on this machine, and the page behind `tpprof env`."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ...methods.contract.errors import first_line
from ...reports import units
from .environment import describe_environment

if TYPE_CHECKING:
    import torch

    from ...reports.record.environment import Environment
    from ...reports.record.gpu import GpuDescription, GpuState

BUSY = 0.5
"""Runnable tasks per core above which the machine is not ours alone."""

SWAPPED = 0.05
"""Share of the memory in swap above which pages may come back in the middle of a request."""

SPOILING_VARIABLES = {
    "CUDA_INJECTION64_PATH": "a profiler rides on every CUDA call",
    "CUDA_LAUNCH_BLOCKING": "the host waits for every kernel, so nothing overlaps",
    "MALLOC_CHECK_": "every allocation on the host is checked",
    "MALLOC_PERTURB_": "every allocation on the host is overwritten",
    "NVIDIA_TF32_OVERRIDE": "the library's choice of TF32 is overruled",
    "PYTHONDEVMODE": "Python checks itself as it runs",
    "PYTORCH_NO_CUDA_MEMORY_CACHING": "every tensor costs a cudaMalloc, which waits for the GPU",
    "TORCHDYNAMO_DISABLE": "torch.compile silently runs eager",
    "TORCH_COMPILE_DEBUG": "torch.compile writes its debug files",
    "TORCH_COMPILE_DISABLE": "torch.compile silently runs eager",
    "TORCH_CPP_LOG_LEVEL": "torch writes a log as it runs",
    "TORCH_DISTRIBUTED_DEBUG": "torch checks and logs as it runs",
    "TORCH_LOGS": "torch writes a log as it runs",
    "TORCH_SHOW_CPP_STACKTRACES": "every error that is caught collects a C++ stack first",
    "TORCH_SHOW_DISPATCH_TRACE": "torch writes a line for every operator",
}
# Off where the value says so. Not these: for the first any value is on, for the second 0 is what
# overrules.
_OFF = ("", "0", "error", "fatal", "false", "no", "off", "warning")
_ALWAYS_ON = ("PYTORCH_NO_CUDA_MEMORY_CACHING", "NVIDIA_TF32_OVERRIDE")


def warnings(
    environment: Environment,
    *,
    gpu: GpuState | None = None,
    broken: Mapping[str, str] | None = None,
) -> list[str]:
    """One line for everything that would spoil a measurement: what, why, and what to do.

    gpu: the GPU now. broken: packages that do not import, with the reason. What is unknown (None)
    gives no warning, but for an NVML that does not answer at all.
    """
    return [
        *_packages(environment, broken or {}),
        *_host(environment),
        *_threads(environment),
        *_variables(environment.variables),
        *_gpu(environment.gpu),
        *_gpu_now(gpu),
    ]


def examine(device: str | None = None) -> Environment:
    """The environment of a run on `device` (default: as `tpprof compare` chooses), with its
    warnings; raises InputError for a device that does not exist."""
    broken = broken_packages()
    target = _target(device, broken)
    environment = describe_environment(target)
    uuid = environment.device_uuid
    gpu = _state(target, uuid) if target and uuid else None
    environment.warnings = warnings(environment, gpu=gpu, broken=broken)
    return environment


def _packages(environment: Environment, broken: Mapping[str, str]) -> Iterator[str]:
    packages = environment.packages
    for name, reason in broken.items():
        if name == "torchvision":
            yield (
                f"torchvision does not import ({reason}): `--preprocess device` needs it, and "
                "image processors of transformers may fail; install the torchvision made for torch "
                f"{packages.get('torch')}, or uninstall it"
            )
        else:
            yield f"{name} does not import ({reason}): nothing can be measured; install it again"
    if old := packages.get("pynvml"):
        # https://github.com/gpuopenanalytics/pynvml: from 12 on it brings no `pynvml` module of
        # its own any more and requires nvidia-ml-py.
        shadows = old.partition(".")[0].isdigit() and int(old.partition(".")[0]) < 12
        harm = (
            "shadows nvidia-ml-py, whose newer calls for clocks, power and processes then miss"
            if shadows
            else "rides on nvidia-ml-py and warns at every import"
        )
        mend = "pip uninstall pynvml, then pip install nvidia-ml-py"
        yield f"the deprecated package pynvml {old} {harm}; {mend}"


def _host(environment: Environment) -> Iterator[str]:
    load, cores = environment.load_average, environment.cores
    if load and cores and load[0] > BUSY * cores:
        yield (
            f"the load average is {load[0]:.1f} on {cores} cores: other processes take turns with "
            "this one; stop them, or wait"
        )
    governor = environment.governor
    if governor and governor != "performance":
        yield (
            f"the CPU frequency governor is {governor!r}: clocks follow the load, and the first "
            "requests run slower; sudo cpupower frequency-set -g performance"
        )
    if environment.turbo:
        yield (
            "CPU turbo is on: clocks depend on heat and on the other cores; write 1 to "
            "/sys/devices/system/cpu/intel_pstate/no_turbo, or 0 to .../cpufreq/boost"
        )
    memory, swapped = environment.memory_bytes, environment.swap_used_bytes
    if memory and swapped and swapped > SWAPPED * memory:
        yield (
            f"{units.gibibytes(swapped)} of memory are in swap: fetching a page back takes longer "
            "than a layer; free memory, then sudo swapoff -a && sudo swapon -a"
        )


def _threads(environment: Environment) -> Iterator[str]:
    """More threads than the process may run at once: affinity and quota of the container."""
    limits = [environment.cores_usable, environment.cores_quota]
    usable = min((limit for limit in limits if limit), default=None)
    threads = {"torch": environment.threads}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        first = environment.variables.get(name, "").partition(",")[0].strip()
        threads[name] = int(first) if first.isdecimal() else None
    over = [f"{name} {n}" for name, n in threads.items() if usable and n and n > max(usable, 1)]
    if over:
        yield (
            f"more threads than cores ({', '.join(over)}; this process may use {usable:g}): they "
            "wait for each other; set OMP_NUM_THREADS to at most the cores, or widen taskset or "
            "the container's CPU limit"
        )


def _variables(found: Mapping[str, str]) -> Iterator[str]:
    for name, harm in SPOILING_VARIABLES.items():
        value = found.get(name)
        off = value is None or (value.lower() in _OFF and name not in _ALWAYS_ON)
        if not off:
            yield f"{name}={value}: {harm}; unset {name}"


def _gpu(gpu: GpuDescription | None) -> Iterator[str]:
    if gpu is None:
        return
    if gpu.uuid is None and gpu.driver is None:
        reason = gpu.reasons.get("driver", "unknown")
        yield (
            f"NVML does not answer ({reason}): clocks, throttling, energy and "
            "other processes stay unknown; install nvidia-ml-py, and give a container the "
            "driver's utility capability"
        )
    if gpu.persistence is False:
        yield (
            "GPU persistence mode is off: the driver unloads between processes, so each first "
            "request pays for loading it and clock settings are lost; sudo nvidia-smi -pm 1"
        )
    if gpu.mig:
        yield (
            "MIG is on: this is a slice of a GPU, whose power and clocks others share and whose "
            "energy cannot be told; measure on a whole GPU, or sudo nvidia-smi -mig 0"
        )
    limit, default = gpu.power_limit_watts, gpu.power_limit_default_watts
    if limit and default and limit < default:
        yield (
            f"the GPU's power limit is {limit:.0f} W instead of {default:.0f} W: clocks fall under "
            f"load; sudo nvidia-smi -pl {default:.0f}"
        )


def _gpu_now(gpu: GpuState | None) -> Iterator[str]:
    if gpu is None:
        return
    if gpu.others:
        named = ", ".join(
            f"PID {other.pid}" + (f" with {units.gibibytes(other.bytes)}" if other.bytes else "")
            for other in gpu.others
        )
        yield (
            f"other processes are on the GPU ({named}): they take time, bandwidth and memory from "
            "this one; stop them, or choose another --device"
        )
    if gpu.throttled:
        yield (
            f"the GPU is throttled before any work ({', '.join(gpu.throttled)}): clocks will be "
            "lower than it can do; let it cool, look at nvidia-smi -q -d PERFORMANCE"
        )


def broken_packages() -> dict[str, str]:
    """Packages that a run needs, or that spoil it, and that do not import."""
    broken: dict[str, str] = {}
    for name in ("torch", "transformers", "torchvision"):
        try:
            importlib.import_module(name)
        except Exception as error:  # a wrong build raises more than ImportError
            missing = isinstance(error, ModuleNotFoundError) and error.name == name
            if not (missing and name == "torchvision"):  # which tpprof does without
                broken[name] = first_line(error)
    return broken


def _target(device: str | None, broken: dict[str, str]) -> torch.device | None:
    """The device of a run; None, with the reason in `broken`, where nothing can run."""
    if "torch" in broken:
        return None
    try:
        from ..models.load import default_device
    except Exception as error:
        broken.setdefault("transformers", first_line(error))
        return None
    return default_device(device)


def _state(device: torch.device, uuid: str) -> GpuState:
    """The GPU now, with a CUDA context of ours on it: NVML must then list this process, even under
    another PID, as in a container, and no stranger is taken for it."""
    import torch

    from ..meters.nvml import Gpu

    try:
        torch.zeros(1, device=device)
        has_context = True
    except RuntimeError:  # full, or another process has it to itself
        has_context = False
    with Gpu(uuid) as gpu:
        return gpu.state({os.getpid()}, has_context)
