"""Decoder layer by decoder layer: tokens, FLOPs, time in prefill, and the least that it takes."""

from __future__ import annotations

from dataclasses import dataclass

from ..record.schema import Cell, Record
from . import roofline
from .by_round import baseline
from .counterparts import layer_flops, layer_rate, layer_seconds


@dataclass(frozen=True)
class LayerRow:
    """One decoder layer of a cell in prefill, its own time without scores and selections.

    flops: dense; rate: causal FLOPs per second. *_share: of the same layer in vanilla. seconds:
    median over rounds. floor: None on a device that was not calibrated.
    """

    layer: int
    tokens: int
    flops: int
    flops_share: float | None
    seconds: float
    time_share: float | None
    rate: float | None
    floor: float | None


def layer_rows(record: Record, cell: Cell) -> list[LayerRow]:
    """The decoder layers of a measured cell, in order."""
    vanilla, own = baseline(record, cell), layer_flops(cell)
    full = layer_flops(vanilla) if vanilla else {}
    floors = {}
    if record.peaks is not None:
        floors = roofline.part_seconds(record.peaks, cell.cost, record.model.dtype)
    rows = []
    for layer, tokens in enumerate(cell.tokens_per_layer):
        spent = layer_seconds(cell, [layer])
        whole = layer_seconds(vanilla, [layer]) if vanilla and vanilla.samples else 0.0
        rows.append(
            LayerRow(
                layer,
                tokens,
                own[layer],
                own[layer] / full[layer] if full.get(layer) else None,
                spent,
                spent / whole if whole else None,
                layer_rate(cell, [layer]),
                floors.get(("prefill", "layer", layer)),
            )
        )
    return rows
