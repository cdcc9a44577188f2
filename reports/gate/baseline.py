"""What the exact gate holds fast: counts that no noise can move. And the file they lie in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from ..outputs import write
from ..record.base import Count, RecordError, Struct, decode_versioned
from ..record.spec import Subject
from .rules import MemoryShare
from .tolerant_record import ReadCell, TolerantRecord
from .verdicts import NoVerdictError

SCHEMA = 3
REQUEST = ("before", "visual", "after", "batch", "new_tokens", "tiles", "patches")
"""What must be the same of two requests for their counts to be compared."""
ITEMSIZES = {"float32": 4, "float16": 2, "bfloat16": 2}


class Counts(Struct):
    """A cell's counts.

    flops: by phase and operator class, by formulas. counted_flops: by phase, as torch counts them,
    what a method computes beyond its plan among them; None of a version that does not count
    them. visual_per_layer: visual tokens entering
    each decoder layer. kv_bytes_*: by layer, of the cache tensors. operators, launches, syncs: by
    phase; None on a device that has no such thing, or where they could not be counted. peak_bytes:
    of torch's CUDA allocator. resident_bytes: peak of the process on a CPU. kernels: the attention
    kernel of each decoder layer. tokens_per_layer: of a callable, text included; None of a method.
    """

    cell: str
    flops: dict[str, Count]
    visual_per_layer: list[Count]
    kv_bytes_prefill: list[Count]
    kv_bytes_decode: list[Count]
    generated_tokens: Count
    counted_flops: dict[str, Count] | None = None
    operators: dict[str, Count] | None = None
    launches: dict[str, Count] | None = None
    syncs: dict[str, Count] | None = None
    peak_bytes: Count | None = None
    resident_bytes: Count | None = None
    kernels: list[str] = msgspec.field(default_factory=list)
    tokens_per_layer: list[Count] | None = None
    error: str = ""

    @property
    def is_callable(self) -> bool:
        """Whether it is no method of the engine's."""
        return self.tokens_per_layer is not None

    @classmethod
    def of(cls, cell: ReadCell) -> Counts:
        flops: dict[str, int] = {}
        for item in cell.cost:
            key = f"{item.phase} {item.operator}"
            flops[key] = flops.get(key, 0) + item.flops
        return cls(
            cell=cell.title,
            flops={key: count for key, count in flops.items() if count},
            visual_per_layer=cell.visual_per_layer,
            kv_bytes_prefill=cell.kv_bytes_prefill,
            kv_bytes_decode=cell.kv_bytes_decode,
            generated_tokens=cell.generated_tokens,
            counted_flops=cell.counted_flops,
            operators=_by_phase(cell, "operators"),
            launches=_by_phase(cell, "launches"),
            syncs=_by_phase(cell, "syncs"),
            peak_bytes=cell.memory.allocator,
            resident_bytes=cell.memory.resident,
            kernels=cell.kernels,
            tokens_per_layer=cell.tokens_per_layer if cell.is_callable else None,
            error=cell.error or cell.fallback,
        )


class Snapshot(Struct):
    """The counts of all cells, and what they were counted on."""

    model: str
    architecture: str
    dtype: str
    backend: str
    device: str
    packages: dict[str, str]
    parameter_bytes: Count | None
    workload: dict[str, Any]
    request: dict[str, Any]
    cells: list[Counts]

    @classmethod
    def of(cls, record: TolerantRecord) -> Snapshot:
        model, itemsize = record.model, ITEMSIZES.get(record.model.dtype)
        return cls(
            model=model.name,
            architecture=model.architecture,
            dtype=model.dtype,
            backend=model.backend,
            device=record.environment.device_type or "unknown",
            packages=record.packages,
            parameter_bytes=model.parameters * itemsize if model.parameters and itemsize else None,
            workload=record.spec.workload,
            request={name: record.request.get(name) for name in REQUEST},
            cells=[Counts.of(cell) for cell in record.cells],
        )


class Baseline(Struct):
    """The committed file: what to count, and what was counted. memory: tolerance of the peak."""

    schema: int
    tpprof: str
    subject: Subject
    memory: MemoryShare
    snapshot: Snapshot


def load_baseline(path: Path) -> Baseline:
    """Read a baseline; raises NoVerdictError for a file that is missing, damaged or of another
    version, for nothing can be judged by it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise NoVerdictError(
            f"no baseline {path} ({error.strerror or error}); make it with --update METHOD..."
        ) from error
    again = "make it anew with --update"
    try:
        return decode_versioned(content, Baseline, SCHEMA, path, "baseline", again)
    except RecordError as error:
        raise NoVerdictError(str(error)) from error


def save_baseline(baseline: Baseline, path: Path, *, overwrite: bool = False) -> None:
    """Write the baseline in one step, in a form whose differences read well; raises OutputError."""
    content = msgspec.json.format(msgspec.json.encode(baseline), indent=1) + b"\n"
    write(path, content, "baseline", overwrite=overwrite)


def _by_phase(cell: ReadCell, count: str) -> dict[str, int] | None:
    """Counts of the profiler, by phase; None where there are none."""
    found: dict[str, int] = {}
    for part in cell.activity:
        value = getattr(part, count)
        if value is None:
            return None
        found[part.phase] = found.get(part.phase, 0) + value
    return found or None
