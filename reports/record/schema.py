"""The record of a run: every sample, and all that is needed to read them. JSON, versioned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from .base import Struct
from .kept import Kept, Picture

if TYPE_CHECKING:
    import pandas

SCHEMA = 3


class Cost(Struct):
    """Analytic work of one operator class in one part, whole batch.

    flops: dense attention; causal_flops: without the half that a causal kernel may skip. Bytes and
    launches are the least that the operators need, each reading its inputs once and writing its
    results once, element-wise neighbours fused.
    """

    phase: str
    part: str
    index: int | None
    operator: str
    flops: int
    causal_flops: int
    read_bytes: int
    written_bytes: int
    launches: int


class Bandwidth(Struct):
    """Bytes per second, read and written together, on a working set of so many bytes."""

    footprint_bytes: int
    bytes_per_second: float


class Peaks(Struct):
    """What a device can do at best.

    source: "measured" or the datasheet. flops_per_second: of matrix products, by dtype.
    kernel_seconds: least time that each operator adds where it runs. launch_seconds: least time
    that the host takes to launch one, eagerly; on a CPU it is the same. Both are 0 in a datasheet,
    which does not tell. threads: of torch on a CPU. created, torch: when and with what measured.
    notes: what could not be measured.
    """

    device: str
    source: str
    flops_per_second: dict[str, float]
    bandwidth: list[Bandwidth]
    kernel_seconds: float = 0.0
    launch_seconds: float = 0.0
    memory_bytes: int | None = None
    threads: int | None = None
    torch: str = ""
    created: str = ""
    notes: list[str] = []


class Span(Struct):
    """A part of a request: `phase`, `part` of it, and `index`, a layer or decode step."""

    phase: str
    part: str
    index: int | None = None


class Telemetry(Struct):
    """What the GPU did during one sample, read from NVML by another process.

    readings: how many fell into the sample; none are n/a for what they would tell. Clocks in Hz
    (medians, and the lowest SM clock), highest temperature, mean power. throttled: reasons seen.
    others: PIDs of other processes on the GPU.
    """

    readings: int
    sm_clock_hz: float | None = None
    sm_clock_lowest_hz: float | None = None
    memory_clock_hz: float | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None
    throttled: list[str] = []
    others: list[int] = []


class Sample(Struct):
    """One timed request of a cell.

    round, place: the round it belongs to, and its place among the cells of that round. process:
    index into Record.processes. began: Unix time in seconds. latency: host wall-clock in seconds,
    the wait for the device included. parts: seconds, in the order of Cell.parts. host: seconds
    until the host had queued each phase, by phase (GPU only; on a CPU it is the phase itself).
    marks: why this sample is suspect, empty for a good one.
    """

    round: int
    place: int
    process: int
    began: float
    latency: float
    parts: list[float]
    host: dict[str, float] = {}
    marks: list[str] = []
    telemetry: Telemetry | None = None


class Memory(Struct):
    """Peak bytes of one request; None where unknown, `reasons` says why."""

    allocator: int | None = None
    allocator_by_phase: dict[str, int] = {}
    resident: int | None = None
    device: int | None = None
    reasons: dict[str, str] = {}


class Activity(Struct):
    """What one part asked of torch and of the device, counted in a pass of its own.

    operators: outermost operators that the host called. launches: kernel and graph launches.
    kernels: kernels that ran. syncs: calls that made the host wait for the device.
    busy_seconds: the device was running something. None on a machine that has no such thing.
    """

    phase: str
    part: str
    index: int | None
    operators: int
    launches: int | None = None
    kernels: int | None = None
    syncs: int | None = None
    busy_seconds: float | None = None


class Energy(Struct):
    """Joules per request from the GPU's energy counter, over `requests` in `seconds`; None with a
    reason where unknown."""

    joules: float | None = None
    requests: int = 0
    seconds: float = 0.0
    reason: str = ""


class Cell(Struct):
    """One method under one attention policy and runtime: its counts, its cost and its samples.

    fallback: why it ran eager where another runtime was asked for. setups: graphs compiled or
    captured, recompilations, graph breaks. warmups: seconds of the untimed requests of the first
    process, the first call first. visual_per_layer: visual tokens entering each decoder layer.
    kv_bytes_*: per decoder layer, from the cache tensors, whole batch. kernels: the attention
    kernel of each decoder layer in prefill, as torch names it. counted_flops: by phase, as torch
    counts the operators that really ran, rotary tables and all; under eager alone. solved: knobs
    solved on the warm-up request. note: where the method could not do what its knobs ask. missing:
    what could not be measured, and why. error: why the cell was not measured. kept: which
    visual tokens stay, where that was asked for.
    """

    method: str
    name: str
    attention: str
    reads_attention: bool
    runtime: str = "eager"
    fallback: str = ""
    setups: dict[str, int] = {}
    warmups: list[float] = []
    visual_per_layer: list[int] = []
    tokens_per_layer: list[int] = []
    kv_bytes_prefill: list[int] = []
    kv_bytes_decode: list[int] = []
    generated_tokens: int = 0
    cost: list[Cost] = []
    solved: dict[str, float] = {}
    memory: Memory = msgspec.field(default_factory=Memory)
    activity: list[Activity] = []
    kernels: list[str] = []
    counted_flops: dict[str, int] = {}
    energy: Energy = msgspec.field(default_factory=Energy)
    parts: list[Span] = []
    samples: list[Sample] = []
    note: str = ""
    missing: dict[str, str] = {}
    error: str = ""
    kept: list[Kept] = []


class ModelInfo(Struct):
    """The model: `source` says whence the weights, `reason` why this one was taken."""

    name: str
    architecture: str
    source: str
    reason: str
    parameters: int
    layers: int
    dtype: str
    backend: str


class RequestInfo(Struct):
    """Tokens of the request per sample, and its batch size."""

    before: int
    visual: int
    after: int
    batch: int
    new_tokens: int
    tiles: int | None
    patches: int | None


class GpuProcess(Struct):
    """Another process on the GPU; bytes are None where the driver hides them."""

    pid: int
    bytes: int | None = None


class GpuState(Struct):
    """The GPU at one moment, from NVML. None where unknown, `reasons` says why."""

    sm_clock_hz: float | None = None
    sm_clock_max_hz: float | None = None
    memory_clock_hz: float | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    memory_bytes: int | None = None
    throttled: list[str] | None = None
    others: list[GpuProcess] | None = None
    reasons: dict[str, str] = {}


class Process(Struct):
    """A process that measured.

    cell, round: the only ones it measured, where cells are isolated. seconds: how long it ran;
    None while it runs, and for one that was killed. load: mean number of runnable tasks over the
    last minute, before and after, where known. outcome: how it ended, if not well.
    """

    pid: int
    started: str
    cell: int | None = None
    round: int | None = None
    seconds: float | None = None
    load_before: float | None = None
    load_after: float | None = None
    gpu_before: GpuState | None = None
    gpu_after: GpuState | None = None
    outcome: str = ""


class Settings(Struct):
    """How it was measured: see the options of `tpprof compare`.

    A round is one sample of every cell, or, where cells are isolated, one process of every cell
    with `samples` requests. target: half the width of the 95 % interval over the median.
    """

    attention: list[str] = msgspec.field(default_factory=lambda: ["maps", "rows"])
    runtimes: list[str] = msgspec.field(default_factory=lambda: ["eager"])
    keep: str | None = None
    equalize: bool = False
    isolate: bool = False
    samples: int = 1
    target: float = 0.02
    min_rounds: int = 6
    max_rounds: int = 200
    max_seconds: float | None = 25.0
    seed: int = 0
    plugins: list[str] = []
    tokens: bool = False


class Record(Struct):
    """A run. Seconds, bytes and FLOPs throughout. peaks: of the device, if it was calibrated.
    picture: a small copy, where the kept tokens were asked for."""

    schema: int
    tpprof: str
    created: str
    command: str
    complete: bool
    environment: dict[str, Any]
    model: ModelInfo
    workload: dict[str, Any]
    request: RequestInfo
    cells: list[Cell]
    processes: list[Process] = []
    peaks: Peaks | None = None
    settings: Settings = msgspec.field(default_factory=Settings)
    picture: Picture | None = None

    def frame(self) -> pandas.DataFrame:
        """One row for every sample, phase and method; see frame.frame."""
        from .frame import frame

        return frame(self)
