"""The parts of a record that no clock gave: analytic cost, peaks of the device, explanations."""

from __future__ import annotations

import msgspec


class Struct(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of all parts of a record."""


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


class Contribution(Struct):
    """What one cause adds to the promised time, in seconds (negative: it saves). low, high: 95 %
    interval over rounds, where there are enough. about: what it is."""

    name: str
    seconds: float
    low: float | None = None
    high: float | None = None
    about: str = ""


class Explanation(Struct):
    """Where the time between promise and clock went: promised_seconds and all contributions sum to
    measured_seconds. gap_low, gap_high: 95 % interval of what was measured beyond the promise,
    where there are enough rounds. advice follows from the data; notes say what could not be told
    apart."""

    promised_seconds: float
    measured_seconds: float
    contributions: list[Contribution]
    gap_low: float | None = None
    gap_high: float | None = None
    advice: list[str] = []
    notes: list[str] = []
