"""The table of decoder layers."""

from __future__ import annotations

from .. import units
from ..analysis.layers import LayerRow, layer_rows
from ..record.schema import Cell, Record
from .phases import FLOOR
from .table import Column, Table


def layers_table(record: Record, cell: Cell) -> Table[LayerRow]:
    """One row per decoder layer of a measured cell."""
    return Table(COLUMNS, layer_rows(record, cell))


COLUMNS: list[Column[LayerRow]] = [
    Column("layer", lambda r: str(r.layer), {"layer": lambda r: r.layer}, "The decoder layer."),
    Column(
        "tokens",
        lambda r: f"{r.tokens:,}",
        {"tokens": lambda r: r.tokens},
        "Tokens that enter the layer.",
    ),
    Column(
        "FLOPs",
        lambda r: units.amount(r.flops, "FLOPs"),
        {"flops": lambda r: r.flops},
        "Matrix products of the layer: 1 MAC = 2 FLOPs, dense attention.",
    ),
    Column(
        "of\nvanilla",
        lambda r: units.percent(r.flops_share),
        {"flops_share": lambda r: r.flops_share},
        "The share that is left of the same layer in vanilla.",
    ),
    Column(
        "ms",
        lambda r: units.milliseconds(r.seconds),
        {"seconds": lambda r: r.seconds},
        "Time of the layer in prefill, without scores and selections: the median over rounds.",
    ),
    Column(
        "of\nvanilla",
        lambda r: units.percent(r.time_share),
        {"time_share": lambda r: r.time_share},
        "The share that is left of the same layer in vanilla.",
    ),
    Column(
        "FLOP/s",
        lambda r: units.rate(r.rate),
        {"rate": lambda r: r.rate},
        "Work per second of the whole time, waits included, as a causal kernel does it.",
        wide=True,
    ),
    Column("floor\nms", lambda r: units.milliseconds(r.floor), {"floor": lambda r: r.floor}, FLOOR),
    Column(
        "over\nfloor",
        lambda r: units.times(r.seconds / r.floor if r.floor else None),
        {},
        "How many times its floor the time is.",
    ),
]
