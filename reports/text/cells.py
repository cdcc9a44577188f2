"""The columns that tables share: what a cell is called, and how long something takes."""

from __future__ import annotations

from collections.abc import Callable

from .. import units
from ..analysis.intervals import Estimate
from ..record.labels import runtime
from ..record.schema import Cell
from .table import Column, RowT

CELL = "One method under one attention policy and one runtime."
METHOD = "What prunes, and its knobs. vanilla prunes nothing: all others are compared with it."
ATTENTION = (
    "How the layers that a method scores are computed. rows: the model's own kernel, and just the "
    "attention rows that the score reads; maps: a full softmax map in those layers; published: "
    "what the released code executes."
)


def over_text(over: Estimate | None) -> str:
    """A ratio with its interval, as how many times as long as promised something takes."""
    if over is None or over.low is None or over.high is None:
        return units.times(over.value if over else None)
    return f"{units.times(over.value)} {units.interval(over.low, over.high)}"


def ends(name: str, of: Callable[[RowT], Estimate | None]) -> dict[str, Callable[[RowT], object]]:
    """The values of a column that shows an estimate: itself, and the ends of its interval."""

    def part(end: str) -> Callable[[RowT], object]:
        return lambda row: getattr(of(row), end, None)

    return {name: part("value"), f"{name}_low": part("low"), f"{name}_high": part("high")}


def time_column(
    heading: str, name: str, of: Callable[[RowT], Estimate | None], about: str, *, under: str = ""
) -> Column[RowT]:
    """A time in ms; programs get the ends of its interval too, in seconds. name: of its values."""

    def text(row: RowT) -> str:
        estimate = of(row)
        return units.milliseconds(estimate.value if estimate else None)

    return Column(heading, text, ends(name, of), about, under=under)


def method_column(of: Callable[[RowT], Cell]) -> Column[RowT]:
    return Column(
        "method",
        lambda row: of(row).method,
        {"method": lambda row: of(row).method},
        METHOD,
        "words",
    )


def attention_column(of: Callable[[RowT], Cell]) -> Column[RowT]:
    return Column(
        "attention",
        lambda row: of(row).attention if of(row).reads_attention else "-",
        {"attention": lambda row: of(row).attention if of(row).reads_attention else None},
        ATTENTION,
        "words",
        under="method",
    )


def runtime_column(of: Callable[[RowT], Cell]) -> Column[RowT]:
    return Column(
        "runtime",
        lambda row: runtime(of(row)),
        {
            "runtime": lambda row: of(row).runtime,
            "fallback": lambda row: of(row).fallback or None,
            "eager_prefill": lambda row: of(row).eager_prefill or None,
        },
        "eager: operators launched one by one; graph: vision, prefill and decode replayed "
        "as CUDA graphs; compile: decoder layers under torch.compile.",
        "words",
        under="method",
    )
