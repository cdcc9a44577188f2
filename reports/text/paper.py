"""The paper's Table 7, in the columns of ours."""

from __future__ import annotations

from .. import units
from ..analysis.published import TABLE7, PublishedRow
from .cells import METHOD
from .table import Column, Table


def paper_table() -> Table[PublishedRow]:
    """The paper's rows in the columns of ours."""
    return Table(COLUMNS, TABLE7)


COLUMNS: list[Column[PublishedRow]] = [
    Column(
        "method",
        lambda r: r.method,
        {"method": lambda r: r.method},
        METHOD,
        "words",
    ),
    Column(
        "visual\ntokens",
        lambda r: str(r.visual),
        {"visual_tokens": lambda r: r.visual},
        "In the paper: the budget.",
    ),
    Column(
        "POPE\ns",
        lambda r: f"{r.seconds:,.0f}",
        {"pope_seconds": lambda r: r.seconds},
        "In the paper: wall-clock of the whole benchmark POPE.",
    ),
    Column(
        "speed-up\nmeasured",
        lambda r: units.times(r.speedup),
        {"speedup": lambda r: r.speedup},
        "In the paper's table: by the time of all of POPE.",
    ),
    Column(
        "speed-up\nclaimed",
        lambda r: units.times(r.claimed),
        {"claimed": lambda r: r.claimed},
        "In the paper's table: by the share of FLOPs.",
    ),
    Column(
        "times the\nclaimed time",
        lambda r: units.times(r.over_claim),
        {"over_claim": lambda r: r.over_claim},
        "In the paper's table: measured time over the time that its share of FLOPs claims.",
    ),
    Column(
        "FLOPs",
        lambda r: units.percent(r.flops),
        {"flops_share": lambda r: r.flops},
        "In the paper's table: as printed there.",
    ),
    Column(
        "KV MB",
        lambda r: units.megabytes(r.kv_bytes),
        {"kv_bytes": lambda r: r.kv_bytes},
        "In the paper's table: 0.525 MB times the budget.",
    ),
    Column(
        "POPE F1",
        lambda r: f"{r.f1:.1f}",
        {"pope_f1": lambda r: r.f1},
        "In the paper: the score on POPE, percent.",
    ),
]
