"""The table of decoder layers."""

from __future__ import annotations

from .. import units
from ..analysis.layers import layer_rows
from ..record.schema import Cell, Record

HEADINGS = (
    "layer",
    "tokens",
    "FLOPs",
    "of\nvanilla",
    "ms",
    "of\nvanilla",
    "FLOP/s",
    "floor\nms",
    "over\nfloor",
)


def texts(record: Record, cell: Cell) -> tuple[list[str], list[list[str]]]:
    """Headings, and one line per layer."""
    return list(HEADINGS), [
        [
            str(row.layer),
            f"{row.tokens:,}",
            units.amount(row.flops, "FLOPs"),
            units.percent(row.flops_share),
            units.milliseconds(row.seconds),
            units.percent(row.time_share),
            units.rate(row.rate),
            units.milliseconds(row.floor),
            units.times(row.seconds / row.floor if row.floor else None),
        ]
        for row in layer_rows(record, cell)
    ]
