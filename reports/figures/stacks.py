"""Bars of whole requests: where the time goes, what memory holds, what the host launches."""

from __future__ import annotations

from .. import units
from ..analysis.by_round import SCORING, by_round, seconds_in
from ..analysis.intervals import median_interval
from ..analysis.phases import activity
from ..analysis.run_view import RunView, label
from ..analysis.summary import Row
from ..record.schema import Cell
from . import bars
from .canvas import SERIES, Chart, left_out

MOST_BARS = 36  # a name each: a figure of 13 inches
GROUPS = {
    "preprocess": SERIES[7],
    "vision": SERIES[2],
    "decoder layers": SERIES[0],
    "pruning": SERIES[1],
    "decode": SERIES[4],
    "other": SERIES[3],
}
"""What a request is made of, for people: `pruning` is scoring, selecting and compressing wherever
it happens, `decoder layers` prefill without it, `other` transfer, embedding and head."""


def group(phase: str, part: str) -> str:
    """The group that a part of a request belongs to."""
    if part in SCORING:
        return "pruning"
    return {"prefill": "decoder layers"}.get(phase, phase if phase in GROUPS else "other")


def phases(subject: RunView) -> Chart | None:
    """The median time of each group, cell by cell."""
    if not subject.measured:
        return None
    times = [(row, spent(row.cell)) for row in subject.measured[:MOST_BARS]]
    seen = [word for word in GROUPS if any(word in parts for _, parts in times)]
    listed = []
    for row, parts in times:
        pieces = [(word, GROUPS[word], parts.get(word, 0.0) * 1e3) for word in seen]
        listed.append(bars.Bar(label(row.cell), pieces, _milliseconds(row)))
    return bars.draw(
        "phases",
        "Where the time goes",
        "Time of a request, split into preprocessing, vision tower, decoder layers, pruning, "
        "decoding and the rest; medians.",
        listed,
        "ms",
        lambda value: f"{_number(value)} ms",
        left_out(len(listed), len(subject.measured)),
    )


def spent(cell: Cell) -> dict[str, float]:
    """Seconds of each group: the median over rounds; groups that a cell lacks are left out."""
    places = [group(part.phase, part.part) for part in cell.parts]
    found = {}
    for word in GROUPS:
        wanted = [number for number, place in enumerate(places) if place == word]
        if wanted:
            values = list(by_round(cell, seconds_in(wanted)).values())
            estimate = median_interval(values)
            found[word] = estimate.value if estimate else 0.0
    return found


def memory(subject: RunView) -> Chart | None:
    """The peak of one request, as one counter saw it for all; on a GPU the allocator's peak in
    each phase. The KV cache after prefill is told and not drawn: the peak may lie elsewhere."""
    allocator = any(row.cell.memory.allocator is not None for row in subject.measured)
    known = [row for row in subject.measured if _peak(row.cell, allocator=allocator)]
    shown = known[:MOST_BARS]
    if not shown:
        return None
    listed = [_memory(row, allocator=allocator) for row in shown]
    what = "torch's allocator" if allocator else "the whole process, weights included"
    return bars.draw(
        "memory",
        "Peak memory",
        f"Peak memory of one request ({what}); in words the KV cache after prefill.",
        listed,
        f"GiB, {what}",
        lambda value: f"{value:.3f} GiB",
        left_out(len(listed), len(known)),
    )


def _peak(cell: Cell, *, allocator: bool) -> int | None:
    """Bytes at the peak: of one counter throughout, those of two are not alike."""
    return cell.memory.allocator if allocator else cell.memory.resident


def _memory(row: Row, *, allocator: bool) -> bars.Bar:
    peak = _peak(row.cell, allocator=allocator) or 0
    words = f"{units.gibibytes(peak)}, KV {units.megabytes(row.kv_bytes)} MB"
    by_phase = row.cell.memory.allocator_by_phase if allocator else {}
    marks = [(f"peak in {phase}", size / 2**30) for phase, size in by_phase.items()]
    return bars.Bar(label(row.cell), [("peak", SERIES[0], peak / 2**30)], words, marks)


def launches(subject: RunView) -> Chart | None:
    """What the host asked for in each phase: kernel launches on a GPU, operators on a CPU."""
    cells = [row.cell for row in subject.measured if row.cell.activity][:MOST_BARS]
    if not cells:
        return None
    on_gpu = all(part.launches is not None for cell in cells for part in cell.activity)
    listed = [_launches(cell, on_gpu) for cell in cells]
    what = "kernel and graph launches" if on_gpu else "outermost torch operators"
    return bars.draw(
        "launches",
        "Launches" if on_gpu else "Operators",
        f"{what.capitalize()} of one request, phase by phase.",
        listed,
        what,
        lambda value: f"{value:,.0f}",
        left_out(len(listed), sum(bool(row.cell.activity) for row in subject.measured)),
    )


def _launches(cell: Cell, on_gpu: bool) -> bars.Bar:
    counts: dict[str, float] = {}
    waits = 0
    for phase in dict.fromkeys(part.phase for part in cell.activity):
        counted = activity(cell, phase)
        if counted is None:
            continue
        word = group(phase, "")
        count = counted.launches if on_gpu else counted.operators
        counts[word] = counts.get(word, 0) + (count or 0)
        waits += counted.syncs or 0
    pieces = [(word, GROUPS[word], counts[word]) for word in GROUPS if word in counts]
    words = f"{sum(counts.values()):,.0f}" + (f", {waits:,} waits" if on_gpu else "")
    return bars.Bar(label(cell), pieces, words)


def _milliseconds(row: Row) -> str:
    return f"{units.milliseconds(row.latency.value if row.latency else None)} ms"


def _number(value: float) -> str:
    return units.milliseconds(value / 1e3)
