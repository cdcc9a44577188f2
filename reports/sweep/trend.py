"""One method over the records of one machine: its times by date and commit, and where they step."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .. import units
from ..analysis.by_round import baseline, latency, paired_speedup
from ..analysis.intervals import Estimate
from ..record.base import RecordError
from ..record.compatibility import other_machine
from ..record.labels import name
from ..record.schema import Cell, Record
from ..text.cells import ends, over_text
from ..text.table import Column, Table

Measure = Literal["latency", "speedup"]
DIRTY = "A + behind it: with changes that were not committed."
FEWEST = 2  # records of a level: a single one may be an accident
PENALTY = 3.0  # variances times log n that a step has to explain (Yao 1988, as BIC with its place)


@dataclass(frozen=True)
class Point:
    """A record of the series. level: the median of all between two steps. step: by what share the
    level differs from the one before, where one begins here. dirty: whether it ran with changes
    that the commit does not hold."""

    record: str
    created: str
    commit: str
    value: Estimate
    level: float
    step: float | None = None
    dirty: bool = False

    @property
    def ran(self) -> str:
        """The commit in short, with a + where what ran was not all in it."""
        return self.commit[:10] + "+" * (self.dirty and bool(self.commit))


@dataclass(frozen=True)
class Trend:
    """The series of a cell, oldest first. left_out: records that are not in it, and why."""

    cell: str
    measure: Measure
    points: Sequence[Point]
    left_out: Sequence[str]


def series(
    records: Sequence[Record], names: Sequence[str], method: str, measure: Measure = "latency"
) -> Trend:
    """How `method` (a spec string, or the name of a cell, as `fastv with rows`) fared.

    Records of another machine, model or request than the newest with the method are left out, and
    those without it, and the copies of one. Raises RecordError where none has it.
    """
    ordered = sorted(zip(records, names, strict=True), key=lambda pair: pair[0].created)
    having = [record for record, _ in ordered if _has(record, method, measure)]
    if not having:
        cells = dict.fromkeys(name(cell) for record in records for cell in record.cells)
        raise RecordError(f"no record has {method!r} measured; known: {', '.join(cells)}")
    newest, called = having[-1], ""
    found: list[tuple[str, Record, Estimate]] = []
    left_out = []
    meant = _cell(newest, method, called)
    called = name(meant) if meant else called
    for record, where in ordered:
        cell = _cell(record, method, called)
        why = _unlike(newest, record)
        value = _value(record, cell, measure) if cell else None
        same = next((other for other, earlier, _ in found if earlier == record), None)
        if why:
            left_out.append(f"{where}: {why}")
        elif same is not None:
            left_out.append(f"{where}: the same record as {same}")
        elif cell is None or value is None:
            left_out.append(f"{where}: {method} was not measured")
        else:
            called = name(cell)
            found.append((where, record, value))
    return Trend(called, measure, _points(found), left_out)


def steps(values: Sequence[float]) -> list[int]:
    """Places where a new level of the logarithms of `values` begins, by penalised least squares,
    exactly: the split with the least sum of squares plus a penalty for each step. Each value is
    the median of it and its neighbours, so that a wild one is no level; the noise is the median of
    the differences between neighbours."""
    logs = [math.log(value) for value in values]
    count = len(logs)
    if count < 2 * FEWEST:
        return []
    apart = [abs(after - before) for before, after in itertools.pairwise(logs)]
    deviation = max(statistics.median(apart) / (0.6745 * math.sqrt(2)), 1e-6)
    penalty = PENALTY * deviation**2 * math.log(count)
    sums, squares = [0.0], [0.0]
    for place in range(count):
        left = min(max(place - 1, 0), count - 3)
        value = statistics.median(logs[left : left + 3])
        sums.append(sums[-1] + value)
        squares.append(squares[-1] + value**2)

    def cost(start: int, stop: int) -> float:
        total = sums[stop] - sums[start]
        return squares[stop] - squares[start] - total**2 / (stop - start)

    best: list[tuple[float, int]] = [(0.0, 0)]  # up to each place: the least, and its last step
    for stop in range(1, count + 1):
        starts = [0, *range(FEWEST, stop - FEWEST + 1)] if stop >= FEWEST else [0]
        best.append(min((best[s][0] + cost(s, stop) + (penalty if s else 0.0), s) for s in starts))
    places, stop = [], count
    while stop := best[stop][1]:
        places.append(stop)
    return places[::-1]


def trend_table(found: Trend) -> Table[Point]:
    """A row for each record, with the steps between them."""
    ratio = found.measure == "speedup"

    def text(value: float | None) -> str:
        return units.times(value) if ratio else units.milliseconds(value)

    def whole(point: Point) -> str:
        if ratio:
            return over_text(point.value)
        low, high = point.value.low, point.value.high
        known = low is not None and high is not None
        return text(point.value.value) + (f" {units.ends(text(low), text(high))}" if known else "")

    def change(point: Point) -> str:
        return "" if point.step is None else f"{point.step * 100:+.1f} %"

    key = "speedup" if ratio else "latency_seconds"
    columns: list[Column[Point]] = [
        Column("date", lambda p: p.created[:16], {"created": lambda p: p.created}, "", "words"),
        Column(
            "commit",
            lambda p: p.ran,
            {"commit": lambda p: p.commit, "dirty": lambda p: p.dirty},
            DIRTY,
            "words",
        ),
        Column(
            "speed-up" if ratio else "latency ms",
            whole,
            ends(key, lambda p: p.value),
            "In brackets the 95 % interval.",
        ),
        Column("level", lambda p: text(p.level), {"level": lambda p: p.level}, "Median."),
        Column("step", change, {"step": lambda p: p.step}, "From the level before."),
        Column("record", lambda p: p.record, {"record": lambda p: p.record}, "", "words"),
    ]
    return Table(columns, found.points, found.left_out, closing=_closing(found))


def _closing(found: Trend) -> str:
    stepped = [point for point in found.points if point.step is not None]
    if not stepped:
        count = len(found.points)
        if count < 2 * FEWEST:
            told = "1 record tells" if count == 1 else f"{count} records tell"
            return f"{found.cell}: {told} of no step, {2 * FEWEST} are needed"
        return f"{found.cell}: no step in {count} records"
    told = ", ".join(
        f"{point.step * 100:+.1f} % at {point.ran or point.created[:16]}"
        for point in stepped
        if point.step is not None
    )
    return f"{found.cell}: {told}"


def _points(found: Sequence[tuple[str, Record, Estimate]]) -> list[Point]:
    values = [value.value for _, _, value in found]
    edges = [0, *steps(values), len(values)]
    levels = [statistics.median(values[a:b]) for a, b in itertools.pairwise(edges)]
    points = []
    for place, (where, record, value) in enumerate(found):
        segment = sum(place >= edge for edge in edges[1:-1])
        begins = segment and edges[segment] == place
        points.append(
            Point(
                record=where,
                created=record.created,
                commit=record.environment.git.tpprof.commit or "",
                dirty=bool(record.environment.git.tpprof.dirty),
                value=value,
                level=levels[segment],
                step=levels[segment] / levels[segment - 1] - 1 if begins else None,
            )
        )
    return points


def _cell(record: Record, method: str, called: str) -> Cell | None:
    """The cell that is meant: the one that was meant before, where it is known."""
    cells = [cell for cell in record.cells if not cell.error]
    by_name = next((cell for cell in cells if name(cell) == (called or method)), None)
    if called:
        return by_name
    return by_name or next((cell for cell in cells if method in (cell.method, cell.name)), None)


def _has(record: Record, method: str, measure: Measure) -> bool:
    cell = _cell(record, method, "")
    return cell is not None and _value(record, cell, measure) is not None


def _value(record: Record, cell: Cell, measure: Measure) -> Estimate | None:
    if measure == "latency":
        return latency(cell)
    vanilla = baseline(record, cell)
    return paired_speedup(vanilla, cell) if vanilla else None


def _unlike(newest: Record, record: Record) -> str:
    """Why times of a record do not stand beside those of the newest."""
    model = ("name", "architecture", "dtype", "backend")
    if any(getattr(record.model, part) != getattr(newest.model, part) for part in model):
        return "another model, dtype or attention backend"
    own, wanted = record.request, newest.request
    lengths = ("before", "visual", "after", "batch", "new_tokens", "frames", "pictures")
    if any(getattr(own, part) != getattr(wanted, part) for part in lengths):
        return "another request"
    if record.spec.workload != newest.spec.workload:
        return "another picture, layout or way to process pictures"
    differs = [
        line for line in other_machine(newest, record) if not line.startswith(("packages", "cuda"))
    ]
    return f"another machine ({differs[0]})" if differs else ""
