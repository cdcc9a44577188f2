"""Table 7 of a run: the columns, once, for the terminal, Markdown, CSV and JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .. import units
from ..analysis.intervals import Estimate
from ..analysis.summary import Row, rows
from ..record.labels import runtime
from ..record.schema import Record

Values = dict[str, Callable[[Row], Any]]


@dataclass(frozen=True)
class Column:
    """A column: its heading, its text for people, and its plain values for machines.

    A column that is not `shown` has nothing to tell people in this run; machines get it always.
    """

    heading: str
    text: Callable[[Row], str]
    values: Values
    shown: bool = True


def columns(record: Record, listed: list[Row]) -> list[Column]:
    """The columns of Table 7, measured and derived; `listed` are its rows."""
    return [*_what(record), *_times(record, listed), *_costs(record)]


def plain(record: Record) -> list[dict[str, Any]]:
    """The table as plain values in SI units, one mapping per row."""
    listed = rows(record)
    shown = columns(record, listed)
    return [
        {name: value(row) for column in shown for name, value in column.values.items()}
        | {
            "parts_over_latency": row.parts_sum.value if row.parts_sum else None,
            "error": row.cell.error or None,
        }
        for row in listed
    ]


def texts(record: Record, listed: list[Row] | None = None) -> tuple[list[str], list[list[str]]]:
    """The table as texts: headings, and one line per row. listed: the rows, where known already."""
    table = rows(record) if listed is None else listed
    shown = [column for column in columns(record, table) if column.shown]
    return [column.heading for column in shown], [line(shown, row) for row in table]


def line(shown: list[Column], row: Row) -> list[str]:
    """The texts of one row; a failed cell shows its reason in place of numbers."""
    if not row.cell.error:
        return [column.text(row) for column in shown]
    failed = [shown[0].text(row), shown[1].text(row), f"failed: {row.cell.error}"]
    return failed + [""] * (len(shown) - len(failed))


def _what(record: Record) -> list[Column]:
    return [
        Column("method", lambda r: r.cell.method, {"method": lambda r: r.cell.method}),
        Column(
            "attention",
            lambda r: r.cell.attention if r.cell.reads_attention else "-",
            {"attention": lambda r: r.cell.attention if r.cell.reads_attention else None},
        ),
        Column(
            "runtime",
            lambda r: runtime(r.cell),
            {"runtime": lambda r: r.cell.runtime, "fallback": lambda r: r.cell.fallback or None},
            shown=any(cell.runtime != "eager" for cell in record.cells),
        ),
        Column(
            "visual tokens\nlast / mean",
            lambda r: f"{r.visual_last} / {r.visual_mean:.0f}" if r.visual_mean else units.NA,
            {"visual_last": lambda r: r.visual_last, "visual_mean": lambda r: r.visual_mean},
        ),
    ]


def _times(record: Record, listed: list[Row]) -> list[Column]:
    enough = any(row.p95 is not None for row in listed)
    plenty = any(row.p99 is not None for row in listed)
    target = f"{record.spec.stopping.target_ci * 100:g} %"
    return [
        Column(
            f"latency ms\n(target ±{target})",
            _latency,
            _estimate("latency_seconds", "latency")
            | {"precision": lambda r: r.precision, "reached": lambda r: r.reached},
        ),
        Column(
            "p95\nms",
            lambda r: units.milliseconds(r.p95),
            {"latency_p95_seconds": lambda r: r.p95},
            shown=enough,
        ),
        Column(
            "p99\nms",
            lambda r: units.milliseconds(r.p99),
            {"latency_p99_seconds": lambda r: r.p99},
            shown=plenty,
        ),
        Column("prefill\nms", _median("prefill"), _estimate("prefill_seconds", "prefill")),
        Column("decode\nms/token", _median("decode"), _estimate("decode_seconds", "decode")),
        Column(
            "first call\nms",
            lambda r: units.milliseconds(_first(r)),
            {"first_call_seconds": _first},
            shown=any(cell.runtime != "eager" for cell in record.cells),
        ),
        Column("speed-up\nmeasured", _speedup, _estimate("speedup", "speedup")),
    ]


def _costs(record: Record) -> list[Column]:
    on_gpu = any(cell.memory.allocator is not None for cell in record.cells)
    return [
        Column(
            "speed-up\npromised",
            lambda r: units.times(r.promised),
            {"promised": lambda r: r.promised},
        ),
        Column(
            "realised\nshare",
            lambda r: units.percent(r.realised, 0),
            {"realised": lambda r: r.realised},
        ),
        Column(
            "FLOPs",
            lambda r: units.percent(r.flops_share),
            {"flops": lambda r: r.flops, "flops_share": lambda r: r.flops_share},
        ),
        Column("KV MB", lambda r: units.megabytes(r.kv_bytes), {"kv_bytes": lambda r: r.kv_bytes}),
        Column(
            "peak memory\n" + ("(allocator)" if on_gpu else "(process)"),
            lambda r: units.gibibytes(r.peak_bytes),
            {"peak_bytes": lambda r: r.peak_bytes},
        ),
        Column(
            "energy\nJ/request",
            lambda r: units.joules(r.cell.energy.joules),
            {"joules": lambda r: r.cell.energy.joules},
            shown=any(cell.energy.joules is not None for cell in record.cells),
        ),
    ]


def _median(name: str) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        estimate: Estimate | None = getattr(row, name)
        return units.milliseconds(estimate.value if estimate else None)

    return text


def _latency(row: Row) -> str:
    if row.latency is None:
        return units.NA
    median = units.milliseconds(row.latency.value)
    if row.precision is None:
        return f"{median} (too few samples)"
    return f"{median} ±{units.percent(row.precision)}" + ("" if row.reached else " missed")


def _first(row: Row) -> float | None:
    """Seconds of the first request ever: compiling, capturing and loading are in it."""
    return row.cell.warmups[0] if row.cell.warmups else None


def _speedup(row: Row) -> str:
    gain = row.speedup
    if gain is None or (row.cell.name == "vanilla" and gain.low == gain.high):
        return units.times(gain.value if gain else None)
    if gain.low is None or gain.high is None:
        return units.times(gain.value)
    return f"{units.times(gain.value)} ({gain.low:.2f} - {gain.high:.2f})"


def _estimate(name: str, field: str) -> Values:
    def part(attribute: str) -> Callable[[Row], Any]:
        def value(row: Row) -> Any:
            estimate: Estimate | None = getattr(row, field)
            return getattr(estimate, attribute) if estimate else None

        return value

    return {name: part("value"), f"{name}_low": part("low"), f"{name}_high": part("high")}
