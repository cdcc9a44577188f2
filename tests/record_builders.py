"""Records made up for the tests of reports."""

from __future__ import annotations

from typing import Any

from tpprof.reports.record.schema import (
    SCHEMA,
    Activity,
    Cell,
    Cost,
    Environment,
    Memory,
    ModelInfo,
    Process,
    Record,
    RequestInfo,
    Sample,
    Span,
)
from tpprof.reports.record.spec import RunSpec
from tpprof.reports.text.table import Table

PARTS = [
    Span(phase="vision", part="tower"),
    Span(phase="prefill", part="layer", index=0),
    Span(phase="prefill", part="score", index=0),
    Span(phase="head", part="head"),
    Span(phase="decode", part="token", index=0),
]


def sample(number: int, seconds: float, **more: object) -> Sample:
    """A sample of `seconds`, most of it in prefill."""
    given: dict[str, object] = {
        "round": number,
        "turn": 0,
        "process": 0,
        "began": 1.8e9 + number,
        "latency": seconds,
        "parts": [0.1, seconds - 0.4, 0.1, 0.1, 0.1],
    }
    return Sample(**{**given, **more})  # type: ignore[arg-type]


def work(phase: str, part: str, index: int | None, operator: str, flops: int) -> Cost:
    """Work of `flops` FLOPs that moves a byte for each of them, in one launch."""
    return Cost(
        phase=phase,
        part=part,
        index=index,
        operator=operator,
        flops=flops,
        causal_flops=flops,
        read_bytes=flops,
        written_bytes=0,
        launches=1,
    )


def cell(method: str, attention: str, seconds: float, flops: int, **more: object) -> Cell:
    """A cell with six samples that all take `seconds`."""
    name = method.partition(":")[0]
    given: dict[str, object] = {
        "method": method,
        "name": name,
        "attention": attention,
        "reads_attention": name != "vanilla",
        "visual_per_layer": [2880, 320],
        "kv_bytes_prefill": [1_000_000, 500_000],
        "cost": [work("prefill", "layer", 0, "ffn", flops)],
        "memory": Memory(resident=2**30),
        "parts": PARTS,
        "samples": [sample(number, seconds) for number in range(6)],
    }
    return Cell(**{**given, **more})  # type: ignore[arg-type]


def counted(flops: int) -> dict[str, object]:
    """What torch counts of a cell, for one in which a gate can judge everything."""
    return {
        "counted_flops": {"prefill": flops},
        "activity": [Activity(phase="prefill", part="layer", index=0, operators=3)],
        "kernels": ["flash", "flash"],
    }


def record(*cells: Cell) -> Record:
    return Record(
        schema=SCHEMA,
        tpprof="0",
        created="2026-01-01T00:00:00+00:00",
        command="tpprof compare",
        complete=True,
        environment=Environment(device="a machine"),
        model=ModelInfo(
            name="tiny",
            architecture="llava-next",
            source="random weights",
            reason="chosen",
            parameters=30_000_000,
            layers=2,
            dtype="float32",
            backend="sdpa",
        ),
        spec=RunSpec(),
        request=RequestInfo(
            before=35, visual=2880, after=25, batch=1, new_tokens=2, tiles=5, patches=576
        ),
        cells=list(cells),
        processes=[Process(pid=1, started="2026-01-01T00:00:00+00:00", seconds=60.0)],
    )


def headings_and_lines(table: Table[Any]) -> tuple[list[str], list[list[str]]]:
    """What people see of a table."""
    return [column.heading for column in table.visible()], table.lines()
