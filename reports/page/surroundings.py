"""What a reader must know of the machine and the request, and all else that the record holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from .. import units
from ..analysis.counterparts import layer_seconds
from ..analysis.run_view import RunView, label
from ..figures import layers
from ..record.schema import Cell, Record
from .blocks import Table


def environment(record: Record) -> list[tuple[str, str]]:
    """Name and value of what identifies the run; what is unknown is left out."""
    model, request, around = record.model, record.request, record.environment
    git, spec = around.git.tpprof, record.spec
    commit = (git.commit or "")[:12] + (", modified" if git.dirty else "")
    rounds = {len({sample.round for sample in cell.samples}) for cell in record.cells}
    tokens = f"{request.before} + {request.visual} visual + {request.after}"
    pairs: list[tuple[str, Any]] = [
        ("model", f"{model.name} ({model.architecture}), {model.source}; {model.reason}"),
        ("parameters", f"{model.parameters / 1e6:,.0f} M, {model.layers} layers, {model.dtype}"),
        ("attention kernel", model.backend),
        ("request", f"{tokens} tokens, batch {request.batch}, {request.new_tokens} new tokens"),
        ("picture", spec.workload.image),
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
        ("rounds", _span(rounds)),
        ("processes", len(record.processes) if spec.stopping.isolate else None),
        ("measured", record.created + ("" if record.complete else ", interrupted")),
        ("command", record.command),
    ]
    return [(name, str(value)) for name, value in pairs if value not in (None, "", units.NA)]


def everything(record: Record) -> Table:
    """The whole environment, specification and peaks, one line a value."""
    parts = {
        "environment": msgspec.to_builtins(record.environment),
        **msgspec.to_builtins(record.spec),
        "peaks": msgspec.to_builtins(record.peaks),
    }
    lines = [[name, _said(value)] for part in parts for name, value in _flat(part, parts[part])]
    return Table.of(["what", "value"], lines, words=2, caption="All that the record says of it")


def memory_texts(cells: Sequence[Cell]) -> tuple[list[str], list[list[str]]]:
    """Headings, and a line per cell: peaks as each counter saw them, the allocator's by phase, and
    the KV cache after prefill and after decode."""
    phases = list(dict.fromkeys(phase for c in cells for phase in c.memory.allocator_by_phase))
    headings = [
        "method",
        "attention",
        "allocator",
        "process",
        "device",
        *(f"allocator\nin {phase}" for phase in phases),
        "KV MB\nprefill",
        "KV MB\ndecode",
    ]
    lines = []
    for cell in cells:
        memory = cell.memory
        peaks = [memory.allocator, memory.resident, memory.device]
        peaks += [memory.allocator_by_phase.get(phase) for phase in phases]
        caches = [sum(cell.kv_bytes_prefill) or None, sum(cell.kv_bytes_decode) or None]
        lines.append(
            [
                cell.method,
                cell.attention if cell.reads_attention else "-",
                *map(units.gibibytes, peaks),
                *map(units.megabytes, caches),
            ]
        )
    return headings, lines


def tokens_texts(cells: Sequence[Cell]) -> tuple[list[str], list[list[str]]]:
    """Headings, and a line per cell: visual tokens and MB of KV cache, layer by layer."""
    lines = [
        [
            cell.method,
            cell.attention if cell.reads_attention else "-",
            layers.runs([float(count) for count in cell.visual_per_layer]) or units.NA,
            layers.runs([count / 1e6 for count in cell.kv_bytes_prefill]) or units.NA,
        ]
        for cell in cells
    ]
    return ["method", "attention", "visual tokens", "KV MB after prefill"], lines


def layers_texts(subject: RunView) -> tuple[list[str], list[list[str]]]:
    """Headings, and a line per decoder layer: the time of each cell, and what its FLOPs promise."""
    known = [(cell, wanted) for cell in subject.cells if (wanted := layers.promised(subject, cell))]
    headings = ["layer"]
    for cell, _ in known:
        headings += [f"{label(cell)}\nms", "promised\nms"]
    lines = []
    for layer in dict.fromkeys(layer for _, wanted in known for layer in wanted):
        line = [str(layer)]
        for cell, wanted in known:
            spent = layer_seconds(cell, [layer]) if layer in wanted else None
            line += [units.milliseconds(spent), units.milliseconds(wanted.get(layer))]
        lines.append(line)
    return headings, lines


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
