"""Table 7 of a run: the columns, once, for the terminal, Markdown, CSV and JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import units
from .record import Record
from .statistics import Estimate
from .summary import Row, rows


@dataclass(frozen=True)
class Column:
    """A column: its heading, its text for people, and its plain values for machines."""

    heading: str
    text: Callable[[Row], str]
    values: dict[str, Callable[[Row], Any]]


def columns(record: Record) -> list[Column]:
    """The columns of Table 7, measured and derived."""
    on_gpu = any(cell.memory.allocator is not None for cell in record.cells)
    return [
        Column("method", lambda r: r.cell.method, {"method": lambda r: r.cell.method}),
        Column(
            "attention",
            lambda r: r.cell.attention if r.cell.reads_attention else "-",
            {"attention": lambda r: r.cell.attention if r.cell.reads_attention else None},
        ),
        Column(
            "visual tokens\nlast / mean",
            lambda r: f"{r.visual_last} / {r.visual_mean:.0f}" if r.visual_mean else units.NA,
            {"visual_last": lambda r: r.visual_last, "visual_mean": lambda r: r.visual_mean},
        ),
        Column("latency ms\n(95 % interval)", _latency, _estimate("latency_seconds", "latency")),
        Column("prefill\nms", _median("prefill"), _estimate("prefill_seconds", "prefill")),
        Column("decode\nms/token", _median("decode"), _estimate("decode_seconds", "decode")),
        Column("speed-up\nmeasured", _speedup, _estimate("speedup", "speedup")),
        Column(
            "FLOPs", lambda r: units.percent(r.flops_share),
            {"flops": lambda r: r.flops, "flops_share": lambda r: r.flops_share},
        ),
        Column(
            "speed-up\npromised", lambda r: units.times(r.promised),
            {"promised": lambda r: r.promised},
        ),
        Column(
            "realised\nshare", lambda r: units.percent(r.realised, 0),
            {"realised": lambda r: r.realised},
        ),
        Column("KV MB", lambda r: units.megabytes(r.kv_bytes), {"kv_bytes": lambda r: r.kv_bytes}),
        Column(
            "peak memory\n" + ("(allocator)" if on_gpu else "(process)"),
            lambda r: units.gibibytes(r.peak_bytes), {"peak_bytes": lambda r: r.peak_bytes},
        ),
    ]  # fmt: skip


def plain(record: Record) -> list[dict[str, Any]]:
    """The table as plain values in SI units, one mapping per row."""
    shown = columns(record)
    return [
        {name: value(row) for column in shown for name, value in column.values.items()}
        | {
            "parts_over_latency": row.parts_sum.median if row.parts_sum else None,
            "error": row.cell.error or None,
        }
        for row in rows(record)
    ]


def texts(record: Record) -> tuple[list[str], list[list[str]]]:
    """The table as texts: headings, and one line per row."""
    shown = columns(record)
    return [column.heading for column in shown], [_texts(shown, row) for row in rows(record)]


def _texts(shown: list[Column], row: Row) -> list[str]:
    """The texts of one row; a failed cell shows its reason in place of numbers."""
    if not row.cell.error:
        return [column.text(row) for column in shown]
    failed = [shown[0].text(row), shown[1].text(row), f"failed: {row.cell.error}"]
    return failed + [""] * (len(shown) - len(failed))


def _median(name: str) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        estimate: Estimate | None = getattr(row, name)
        return units.milliseconds(estimate.median if estimate else None)

    return text


def _latency(row: Row) -> str:
    estimate = row.latency
    if estimate is None:
        return units.NA
    if estimate.low is None:
        return f"{units.milliseconds(estimate.median)} (too few samples)"
    low, high = units.milliseconds(estimate.low), units.milliseconds(estimate.high)
    return f"{units.milliseconds(estimate.median)} ({low} - {high})"


def _speedup(row: Row) -> str:
    return units.times(row.speedup.median if row.speedup else None)


def _estimate(name: str, field: str) -> dict[str, Callable[[Row], Any]]:
    def part(attribute: str) -> Callable[[Row], Any]:
        def value(row: Row) -> Any:
            estimate: Estimate | None = getattr(row, field)
            return getattr(estimate, attribute) if estimate else None

        return value

    return {name: part("median"), f"{name}_low": part("low"), f"{name}_high": part("high")}
