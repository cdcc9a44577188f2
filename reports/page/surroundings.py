"""What a reader must know of the machine and the request, and all else that the record holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from .. import units
from ..analysis.counterparts import layer_seconds
from ..analysis.run_view import RunView, label
from ..figures import layers
from ..record.schema import Cell, ModelInfo, Preprocessing, Record
from ..text.cells import attention_column, method_column
from ..text.sentences import kernels_by_phase, lengths, origin
from ..text.table import Column, Table
from ..text.table7 import KV
from ..text.waterfall import PROMISED


def environment(record: Record) -> list[tuple[str, str]]:
    """Name and value of what identifies the run; what is unknown is left out."""
    model, request, around = record.model, record.request, record.environment
    git, spec = around.git.tpprof, record.spec
    commit = (git.commit or "")[:12] + (", modified" if git.dirty else "")
    rounds = {len({sample.round for sample in cell.samples}) for cell in record.cells}
    known = model.parameters is not None  # else callables alone were measured
    tokens = lengths(request) if known else "their"
    pairs: list[tuple[str, Any]] = [
        ("model", f"{model.name} ({model.architecture}), {model.source}; {model.reason}"),
        ("parameters", _parameters(model)),
        ("attention kernel", _kernel(record)),
        ("request", f"{tokens} tokens, batch {request.batch}, {request.new_tokens} new tokens"),
        ("picture", ", ".join(spec.workload.image) or None),
        ("video", spec.workload.video),
        ("conversation", spec.workload.messages),
        ("pictures processed", _preprocessing(request.preprocessing)),
        ("prompt", spec.workload.prompt),
        ("device", around.device),
        ("memory", units.gibibytes(around.memory_bytes)),
        ("CPU", around.cpu),
        ("threads", around.threads),
        ("driver", around.gpu.driver if around.gpu else None),
        ("CUDA", around.cuda),
        ("system", around.platform),
        ("Python", around.python),
        *((name, around.packages.get(name)) for name in ("torch", "transformers", "flash-attn")),
        ("tpprof", f"{record.tpprof} {commit}".strip()),
        *(("callable", origin(cell)) for cell in record.cells if cell.callable),
        ("rounds", _span(rounds)),
        ("processes", len(record.processes) if spec.stopping.isolate else None),
        ("measured", record.created + ("" if record.complete else ", interrupted")),
        ("command", record.command),
    ]
    return [(name, str(value)) for name, value in pairs if value not in (None, "", units.NA)]


def _parameters(model: ModelInfo) -> str:
    if model.parameters is None:
        return ""
    return f"{model.parameters / 1e6:,.0f} M, {model.layers} layers, {model.dtype}"


def _preprocessing(known: Preprocessing | None) -> str:
    if known is None:
        return ""
    said = f"on {known.device} by {known.processor} ({known.backend})"
    if known.apart is None:
        return said
    return f"{said}, at most {known.apart:.1f} of 255 grey levels from what the host makes"


def _kernel(record: Record) -> str:
    """The kernel that was asked for, and those that vanilla's phases used."""
    used = next((found for cell in record.cells if (found := kernels_by_phase(cell))), "")
    order = record.environment.determinism.sdpa_order
    tried = f"; torch tries {', '.join(map(str.lower, order))}" if order else ""
    return f"{record.model.backend}{f': {used}' if used else ''}{tried}"


def everything_table(record: Record) -> Table[tuple[str, str]]:
    """The whole environment, specification and peaks, one line a value."""
    parts = {
        "environment": msgspec.to_builtins(record.environment),
        **msgspec.to_builtins(record.spec),
        "peaks": msgspec.to_builtins(record.peaks),
    }
    return Table(
        [
            Column("what", lambda r: r[0], about="A field of the record.", kind="words"),
            Column("value", lambda r: r[1], about="What the record holds there.", kind="words"),
        ],
        [(name, _said(value)) for part in parts for name, value in _flat(part, parts[part])],
    )


def memory_table(cells: Sequence[Cell]) -> Table[Cell]:
    """One row per cell: peaks as each counter saw them, the allocator's by phase, and the KV cache
    after prefill and after decode."""
    phases = dict.fromkeys(phase for c in cells for phase in c.memory.allocator_by_phase)
    return Table(
        [
            method_column(_itself),
            attention_column(_itself),
            Column(
                "allocator",
                lambda c: units.gibibytes(c.memory.allocator),
                {"allocator_bytes": lambda c: c.memory.allocator},
                "The most that torch's allocator held during one request, on a GPU.",
            ),
            Column(
                "process",
                lambda c: units.gibibytes(c.memory.resident),
                {"resident_bytes": lambda c: c.memory.resident},
                "Resident memory of the process at its peak, weights included.",
            ),
            Column(
                "device",
                lambda c: units.gibibytes(c.memory.device),
                {"device_bytes": lambda c: c.memory.device},
                "Memory of the GPU that was in use, by whomever.",
            ),
            *(_allocator_column(phase) for phase in phases),
            _cache_column("prefill", lambda c: c.kv_bytes_prefill),
            _cache_column("decode", lambda c: c.kv_bytes_decode),
        ],
        cells,
    )


def _allocator_column(phase: str) -> Column[Cell]:
    return Column(
        f"allocator\nin {phase}",
        lambda c: units.gibibytes(c.memory.allocator_by_phase.get(phase)),
        {f"allocator_bytes_{phase}": lambda c: c.memory.allocator_by_phase.get(phase)},
        "Its peak within a phase.",
        term="allocator in",
    )


def _cache_column(phase: str, of: Callable[[Cell], list[int]]) -> Column[Cell]:
    return Column(
        f"KV MB\n{phase}",
        lambda c: units.megabytes(sum(of(c)) or None),
        {f"kv_bytes_{phase}": lambda c: sum(of(c)) or None},
        f"Bytes of the real key and value tensors after {phase}, text included; MB of 10^6.",
    )


def by_layer_table(cells: Sequence[Cell]) -> Table[Cell]:
    """One row per cell: visual tokens and MB of KV cache, layer by layer."""
    return Table(
        [
            method_column(_itself),
            attention_column(_itself),
            Column(
                "visual tokens",
                lambda c: layers.runs([float(count) for count in c.visual_per_layer]) or units.NA,
                {"visual_per_layer": lambda c: c.visual_per_layer},
                "Those that enter each decoder layer.",
                "words",
            ),
            Column(
                "KV MB after prefill",
                lambda c: layers.runs([count / 1e6 for count in c.kv_bytes_prefill]) or units.NA,
                {"kv_bytes_prefill": lambda c: c.kv_bytes_prefill},
                KV,
                "words",
            ),
        ],
        cells,
    )


def layer_times_table(subject: RunView) -> Table[int]:
    """One row per decoder layer: the time of each cell, and what its FLOPs promise."""
    known = [(cell, wanted) for cell in subject.cells if (wanted := layers.promised(subject, cell))]
    columns = [
        Column[int]("layer", str, {"layer": lambda layer: layer}, "The decoder layer."),
    ]
    for cell, wanted in known:
        columns += _layer_columns(cell, wanted)
    return Table(columns, list(dict.fromkeys(layer for _, wanted in known for layer in wanted)))


def _layer_columns(cell: Cell, wanted: Mapping[int, float]) -> list[Column[int]]:
    def spent(layer: int) -> float | None:
        return layer_seconds(cell, [layer]) if layer in wanted else None

    return [
        Column(
            f"{label(cell)}\nms",
            lambda layer: units.milliseconds(spent(layer)),
            {},
            "Below the name of a cell: its measured time, the median over rounds.",
            term="ms",
        ),
        Column(
            "promised\nms",
            lambda layer: units.milliseconds(wanted.get(layer)),
            {},
            PROMISED,
        ),
    ]


def _itself(cell: Cell) -> Cell:
    return cell


def _flat(name: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [pair for key, part in value.items() for pair in _flat(f"{name} {key}", part)]
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [p for n, part in enumerate(value) for p in _flat(f"{name} {n}", part)]
    return [(name, value)]


def _said(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return units.NA if value is None else str(value)


def _span(counts: set[int]) -> str:
    counts = counts - {0}
    if not counts:
        return ""
    return str(max(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
