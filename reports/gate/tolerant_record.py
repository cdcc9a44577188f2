"""What the gate reads of a record, and no more: another version of tpprof may have written it."""

from __future__ import annotations

from typing import Any

import msgspec

from ..record.base import Amount, Count, Integer
from ..record.schema import Record
from .verdicts import NoVerdictError


class ReadPart(msgspec.Struct):
    """See `record.Part`."""

    phase: str
    part: str
    index: int | None = None


class ReadTelemetry(msgspec.Struct):
    """See `record.Telemetry`."""

    readings: Count = 0
    sm_clock_hz: float | None = None
    throttled: list[str] = []
    others: list[Count] = []


class ReadSample(msgspec.Struct):
    """See `record.Sample`."""

    round: Count
    latency: Amount
    parts: list[float]
    marks: list[str] = []
    telemetry: ReadTelemetry | None = None


class ReadCost(msgspec.Struct):
    """See `record.Cost`."""

    phase: str
    operator: str
    flops: Count


class ReadMemory(msgspec.Struct):
    """See `record.Memory`."""

    allocator: Integer | None
    resident: Count | None = None


class ReadActivity(msgspec.Struct):
    """See `record.Activity`."""

    phase: str
    operators: Count
    launches: Count | None
    syncs: Count | None


class ReadCell(msgspec.Struct):
    """See `record.Cell`. What is gated has no default: a version that calls it otherwise must not
    read as one that counts nothing. counted_flops: None of a version that does not count them."""

    method: str
    name: str
    attention: str
    reads_attention: bool
    visual_per_layer: list[Count]
    kv_bytes_prefill: list[Count]
    kv_bytes_decode: list[Count]
    generated_tokens: Count
    cost: list[ReadCost]
    memory: ReadMemory
    activity: list[ReadActivity]
    kernels: list[str]
    parts: list[ReadPart]
    samples: list[ReadSample]
    runtime: str = "eager"
    fallback: str = ""
    counted_flops: dict[str, Count] | None = None
    missing: dict[str, str] = {}
    tokens_per_layer: list[Count] = []
    error: str = ""

    @property
    def is_callable(self) -> bool:
        """Whether it is no method of the engine's."""
        return self.attention == "own"

    @property
    def title(self) -> str:
        """The cell as rows of the gate name it, and by which it is found on the other side."""
        policy = f" with {self.attention}" if self.reads_attention else ""
        return self.method + policy + (f" under {self.runtime}" if self.runtime != "eager" else "")

    def seconds(self, metric: str, sample: ReadSample) -> float | None:
        """latency, prefill, or decode per token; None where the request has no such part."""
        if metric == "latency":
            return sample.latency
        pairs = list(zip(self.parts, sample.parts, strict=True))
        spent = [time for part, time in pairs if part.phase == metric]
        if metric != "decode":
            return sum(spent) if spent else None
        steps = sum(1 for part, _ in pairs if (part.phase, part.part) == ("decode", "token"))
        return sum(spent) / steps if steps else None


class ReadModel(msgspec.Struct):
    """See `record.ModelInfo`."""

    name: str
    architecture: str
    parameters: Count | None
    layers: Count | None
    dtype: str
    backend: str


class ReadSpec(msgspec.Struct):
    """See `spec.RunSpec`."""

    workload: dict[str, Any]


class ReadOrigins(msgspec.Struct):
    """See `record.CodeOrigins`."""

    origins: dict[str, str] = {}
    own: list[str] = []
    foreign: list[str] = []
    contents: dict[str, str] = {}


class ReadEnvironment(msgspec.Struct):
    """See `record.Environment`."""

    device: str | None = None
    device_type: str | None = None
    packages: dict[str, str | None] = {}
    code: ReadOrigins | None = None


class TolerantRecord(msgspec.Struct):
    """See `record.Record`."""

    model: ReadModel
    request: dict[str, Any]
    spec: ReadSpec
    environment: ReadEnvironment
    cells: list[ReadCell]

    @property
    def packages(self) -> dict[str, str]:
        """Versions that decide by which operators a request runs."""
        found = self.environment.packages
        return {name: found.get(name) or "unknown" for name in ("torch", "transformers")}


def reading(record: Record) -> TolerantRecord:
    """What the gate reads of a record of this version."""
    return msgspec.json.decode(msgspec.json.encode(record), type=TolerantRecord)


def decoded(content: bytes) -> TolerantRecord:
    """What the gate reads of a record in JSON, of whatever version; raises NoVerdictError."""
    try:
        return msgspec.json.decode(content, type=TolerantRecord)
    except msgspec.MsgspecError as error:
        raise NoVerdictError(f"its tpprof writes a record that cannot be read ({error})") from error
