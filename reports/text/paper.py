"""The paper's Table 7, in the columns of ours."""

from __future__ import annotations

from .. import units
from ..analysis.published import TABLE7

HEADINGS = (
    "method",
    "visual\ntokens",
    "POPE\ns",
    "speed-up\nmeasured",
    "speed-up\npromised",
    "realised\nshare",
    "FLOPs",
    "KV MB",
    "POPE F1",
)


def texts() -> tuple[list[str], list[list[str]]]:
    """The paper's rows in the columns of ours."""
    lines = [
        [
            row.method,
            str(row.visual),
            f"{row.seconds:,.0f}",
            units.times(row.speedup),
            units.times(1 / row.flops),
            units.percent(row.realised, 0),
            units.percent(row.flops),
            units.megabytes(row.kv_bytes),
            f"{row.f1:.1f}",
        ]
        for row in TABLE7
    ]
    return list(HEADINGS), lines
