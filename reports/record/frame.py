"""A record as a pandas frame in long form: one row for every sample, phase and method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .schema import Cell, Record

if TYPE_CHECKING:
    import pandas

SAMPLE = ("round", "turn", "process", "began")
COLUMNS = (
    "method",
    "attention",
    "runtime",
    *SAMPLE,
    "latency_seconds",
    "phase",
    "seconds",
    "host_seconds",
    "marks",
)


def frame(record: Record) -> pandas.DataFrame:
    """Seconds of each phase of each sample, in the order in which phases run.

    latency_seconds is that of the whole sample, and stands in each of its rows; attention is None
    for a method that reads none; host_seconds is None where it is not known (on a CPU it is
    `seconds`). Suspect samples have marks, joined by "; ".
    """
    import pandas

    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for cell in record.cells:
        _add(columns, cell)
    return pandas.DataFrame(columns)


def _add(columns: dict[str, list[Any]], cell: Cell) -> None:
    phases = list(dict.fromkeys(part.phase for part in cell.parts))
    places = {
        phase: [number for number, part in enumerate(cell.parts) if part.phase == phase]
        for phase in phases
    }
    count = len(phases) * len(cell.samples)
    attention = cell.attention if cell.reads_attention else None
    fixed = {"method": cell.method, "attention": attention, "runtime": cell.runtime}
    for name, value in fixed.items():
        columns[name] += [value] * count
    for sample in cell.samples:
        for phase in phases:
            for name in SAMPLE:
                columns[name].append(getattr(sample, name))
            columns["latency_seconds"].append(sample.latency)
            columns["phase"].append(phase)
            columns["seconds"].append(sum(sample.parts[index] for index in places[phase]))
            columns["host_seconds"].append(sample.host.get(phase))
            columns["marks"].append("; ".join(sample.marks))
