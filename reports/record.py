"""The record of a run: every sample and all that reads them. JSON with a schema version."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import msgspec

SCHEMA = 1


class RecordError(ValueError):
    """A file that is no record, or one that this version cannot read."""


class Struct(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of all parts of a record."""


class Part(Struct):
    """A part of a request: `phase`, `part` of it, and `index`, a layer or decode step."""

    phase: str
    part: str
    index: int | None = None


class Flops(Struct):
    """Analytic FLOPs of one operator class in one part, whole batch."""

    phase: str
    part: str
    index: int | None
    operator: str
    flops: int


class Sample(Struct):
    """One timed request. `round` and `place` say when it ran; `latency` is host wall-clock in
    seconds, the wait for the device included; `parts` are seconds, in the order of Cell.parts."""

    round: int
    place: int
    latency: float
    parts: list[float]


class Memory(Struct):
    """Peak bytes of one request; None where unknown, `reasons` says why."""

    allocator: int | None = None
    allocator_by_phase: dict[str, int] = {}
    resident: int | None = None
    device: int | None = None
    reasons: dict[str, str] = {}


class Cell(Struct):
    """One method under one attention policy: its counts, its cost and its samples.

    visual_per_layer: visual tokens entering each decoder layer. kv_bytes_*: per decoder layer,
    from the cache tensors, whole batch. solved: knobs solved on the warm-up request. note: where
    the method could not do what its knobs ask. error: why the cell was not measured.
    """

    method: str
    name: str
    attention: str
    reads_attention: bool
    visual_per_layer: list[int] = []
    tokens_per_layer: list[int] = []
    kv_bytes_prefill: list[int] = []
    kv_bytes_decode: list[int] = []
    generated_tokens: int = 0
    flops: list[Flops] = []
    solved: dict[str, float] = {}
    memory: Memory = msgspec.field(default_factory=Memory)
    parts: list[Part] = []
    samples: list[Sample] = []
    note: str = ""
    error: str = ""


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


class Record(Struct):
    """A run. Seconds, bytes and FLOPs throughout."""

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


def save(record: Record, path: Path) -> None:
    """Write `record` to `path` in one step: the file is the old one or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(record), indent=1))
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def load(path: Path) -> Record:
    """Read a record; raises RecordError with one line for anything else."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror or error}") from error
    try:
        schema = msgspec.json.decode(content, type=_Schema).schema
        if schema != SCHEMA:
            raise RecordError(
                f"{path}: schema {schema} is unknown, this tpprof reads schema {SCHEMA}; "
                "read it with the version that wrote it, or measure again"
            )
        record = msgspec.json.decode(content, type=Record)
    except msgspec.MsgspecError as error:
        raise RecordError(f"{path} is no tpprof record ({error})") from error
    for cell in record.cells:
        for sample in cell.samples:
            if len(sample.parts) != len(cell.parts) or not sample.latency > 0:
                raise RecordError(f"{path} is damaged: a sample of {cell.method} does not fit it")
    return record


class _Schema(msgspec.Struct):
    schema: int
