"""Why FLOPs and time disagree: the gap between promise and clock, split into parts that sum to it.

The promise is that the whole request shrinks to the share of FLOPs that remains: promised = share
* vanilla's latency. Every part of a request that did not shrink so far adds what it took beyond
its own share of vanilla's time; what stays unexplained is the remainder, and is shown.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .. import units
from ..record import labels
from ..record.cell import SpanKey
from ..record.schema import Cell, Record
from .advice import advice
from .counterparts import (
    SCORING,
    Counterparts,
    counted,
    counterparts_of,
    layer_flops,
    layer_rate,
    spans,
    weighted,
)
from .intervals import Estimate, median_interval
from .summary import by_round, latency

ENDS = {
    "promised": "the share of FLOPs, of vanilla's time",
    "measured": "the clock",
}
"""What a waterfall begins and ends with."""
PHASES = {
    "preprocess": "picture and text on the host",
    "transfer": "inputs to the device",
    "vision": "vision tower and projector",
    "embed": "text embedding, rotary tables",
    "head": "LM head",
    "decode": "the tokens after the first",
}
CAUSES = {
    "unpruned layers": "they see every token",
    "pruned layers": "their share of FLOPs against that of the whole request",
    "causal attention": "the promise counts both halves of attention, the kernel computes one",
    "attention maps": "measured: `maps` minus `rows`, where maps are built",
    "released code": "measured: `published` minus `maps`, or `rows`, of the same method",
    "scoring": "attention rows, or reading them from the map",
    "selection": "deciding, moving and merging tokens",
    "waiting for the host": "at least: launching, and waits, in the decoder layers",
    "shorter sequences": "pruned layers do less work per second than whole ones",
    "remainder": "what no part accounts for",
}


@dataclass(frozen=True)
class Contribution:
    """What one cause adds to the promised time."""

    name: str
    seconds: float  # negative: it saves
    low: float | None = None  # 95 % interval over rounds, where there are enough
    high: float | None = None
    about: str = ""  # what it is


@dataclass(frozen=True)
class Explanation:
    """Where the time between promise and clock went: promised_seconds and all contributions sum to
    measured_seconds."""

    promised_seconds: float
    measured_seconds: float
    contributions: list[Contribution]
    gap_low: float | None = None  # 95 % interval of what was measured beyond the promise
    gap_high: float | None = None
    advice: list[str] = field(default_factory=list)  # what follows from the data
    notes: list[str] = field(default_factory=list)  # what could not be told apart


@dataclass(frozen=True)
class Explanations:
    """Some cells of a record, explained."""

    found: list[tuple[Cell, Explanation]]
    failed: list[str]  # a line for each cell whose explanation could not be derived


@dataclass
class _Sum:
    """A sum over places of cells, each with a weight, and a constant; in seconds."""

    weights: list[tuple[Cell, SpanKey, float]] = field(default_factory=list)
    constant: float = 0.0

    def add(self, cell: Cell, span: SpanKey, weight: float = 1.0) -> None:
        self.weights.append((cell, span, weight))

    def subtract(self, other: _Sum, weight: float) -> None:
        for cell, span, own in other.weights:
            self.add(cell, span, -weight * own)
        self.constant -= weight * other.constant

    def contribution(self, name: str, about: str) -> Contribution:
        """The median over rounds, with its interval."""
        by_cell: dict[int, tuple[Cell, dict[SpanKey, float]]] = {}
        for cell, span, weight in self.weights:
            _, own = by_cell.setdefault(id(cell), (cell, {}))
            own[span] = own.get(span, 0.0) + weight
        series = [weighted(cell, own) for cell, own in by_cell.values()]
        rounds = set.intersection(*map(set, series)) if series else set()
        sums = [sum(values[number] for values in series) + self.constant for number in rounds]
        found = median_interval(sums)
        if found is None:
            return Contribution(name=name, seconds=self.constant, about=about)
        return Contribution(
            name=name, seconds=found.value, low=found.low, high=found.high, about=about
        )


def explain(record: Record, cell: Cell) -> Explanation | None:
    """The explanation of one cell against vanilla; None for vanilla, and where there is no time."""
    counterparts = counterparts_of(record, cell)
    share = counterparts.flops_share if counterparts else None
    if counterparts is None or share is None or cell is counterparts.vanilla:
        return None
    measured, whole = latency(cell), latency(counterparts.vanilla)
    assert measured is not None
    assert whole is not None
    promised = share * whole.value
    notes: list[str] = []
    sums = _sums(record, counterparts, share, notes)
    found = [part.contribution(name, _about(name, counterparts)) for name, part in sums.items()]
    found = [part for part in found if part.seconds or part.low is not None]
    rest = measured.value - promised - sum(part.seconds for part in found)
    found.append(Contribution(name="remainder", seconds=rest, about=CAUSES["remainder"]))
    gap = _gap(counterparts, share)
    return Explanation(
        promised_seconds=promised,
        measured_seconds=measured.value,
        contributions=found,
        gap_low=gap.low if gap else None,
        gap_high=gap.high if gap else None,
        advice=advice(record, counterparts, found),
        notes=notes,
    )


def _gap(counterparts: Counterparts, share: float) -> Estimate | None:
    """Measured less promised time, round by round."""
    own, full = (
        by_round(c, lambda sample: sample.latency)
        for c in (counterparts.cell, counterparts.vanilla)
    )
    return median_interval([own[number] - share * full[number] for number in own if number in full])


def explain_all(record: Record, cells: Iterable[Cell]) -> Explanations:
    """The cells that can be explained. What is only derived must not cost what was measured: where
    it fails, that is told."""
    explained = Explanations([], [])
    for cell in cells:
        try:
            explanation = explain(record, cell)
        except (ArithmeticError, LookupError, ValueError) as error:
            why = f"{type(error).__name__}: {error}"
            explained.failed.append(f"{labels.name(cell)} cannot be explained: {why}")
            continue
        if explanation is not None:
            explained.found.append((cell, explanation))
    return explained


def _sums(
    record: Record, counterparts: Counterparts, share: float, notes: list[str]
) -> dict[str, _Sum]:
    sums = _phases(counterparts, share)
    sums |= _layers(record, counterparts, share, notes)
    for span in _all_places(counterparts):
        if span[1] in SCORING:
            _decide(counterparts.plain(span), span, sums)
    for name, shared, dear, cheap in (
        (
            "attention maps",
            counterparts.mapped,
            counterparts.maps or counterparts.cell,
            counterparts.rows,
        ),
        (
            "released code",
            counterparts.released,
            counterparts.cell,
            counterparts.maps or counterparts.rows,
        ),
    ):
        if cheap is not None:
            for span in shared:
                sums[name].add(dear, span)
                sums[name].add(cheap, span, -1)
    if counterparts.rows is None and counterparts.cell.attention == "maps":
        notes.append("the cost of attention maps is not told apart: measure `rows` beside them")
    return sums


def _decide(plain: Cell, span: SpanKey, sums: dict[str, _Sum]) -> None:
    """The time of a score or selection. Where it made the host wait, the device idles until the
    host has launched more: that is waiting for the host."""
    target = sums["scoring" if span[1] == "score" else "selection"]
    activity = counted(plain).get(span)
    if activity and activity.syncs and activity.busy_seconds is not None:
        target.constant += activity.busy_seconds
        target = sums["waiting for the host"]
        target.constant -= activity.busy_seconds
    target.add(plain, span)


def _phases(counterparts: Counterparts, share: float) -> dict[str, _Sum]:
    """What pruning in the decoder does not touch, phase by phase."""
    sums: dict[str, _Sum] = {}
    for span in _all_places(counterparts):
        if span[0] != "prefill" and span[1] not in SCORING:
            sums.setdefault(span[0], _Sum()).add(counterparts.plain(span), span)
    for span in spans(counterparts.vanilla):
        if span[0] != "prefill":
            sums.setdefault(span[0], _Sum()).add(counterparts.vanilla, span, -share)
    return sums


def _layers(
    record: Record, counterparts: Counterparts, share: float, notes: list[str]
) -> dict[str, _Sum]:
    names = (
        "unpruned layers",
        "pruned layers",
        "causal attention",
        "attention maps",
        "released code",
        "scoring",
        "selection",
        "waiting for the host",
        "shorter sequences",
    )
    sums = {name: _Sum() for name in names}
    vanilla, full = counterparts.vanilla, layer_flops(counterparts.vanilla)
    waits = _host_split(record, counterparts, full, notes)
    for layer in full:
        span: SpanKey = ("prefill", "layer", layer)
        plain = counterparts.plain(span)
        kept, target = share, sums["unpruned layers"]
        if layer in counterparts.pruned:
            promised, kept = _kept(plain, vanilla, layer), _kept(plain, vanilla, layer, causal=True)
            sums["pruned layers"].add(vanilla, span, promised - share)
            sums["causal attention"].add(vanilla, span, kept - promised)
            target = sums["shorter sequences"]
        for cell, weight in ((plain, 1.0), (vanilla, -kept)):
            target.add(cell, span, weight)
            if waits is not None:
                target.subtract(waits[id(cell), layer], weight)
                sums["waiting for the host"].subtract(waits[id(cell), layer], -weight)
    return sums


def _kept(own: Cell, vanilla: Cell, layer: int, *, causal: bool = False) -> float:
    """The share of a decoder layer's FLOPs that is left."""
    return layer_flops(own, causal=causal)[layer] / layer_flops(vanilla, causal=causal)[layer]


def _host_split(
    record: Record, counterparts: Counterparts, layers: Iterable[int], notes: list[str]
) -> dict[tuple[int, int], _Sum] | None:
    """By cell and layer, the time in which the device waited for the host.

    On a GPU the layer's time less that for which the device was busy; on a CPU operators times the
    least time that one takes. None where it cannot be told.
    """
    found: dict[tuple[int, int], _Sum] = {}
    for layer in layers:
        span: SpanKey = ("prefill", "layer", layer)
        for cell in (counterparts.plain(span), counterparts.vanilla):
            activity = counted(cell).get(span)
            if activity is None:
                notes.append("waiting for the host is not told apart: no activity was counted")
                return None
            if activity.busy_seconds is not None:
                found[id(cell), layer] = _Sum([(cell, span, 1.0)], -activity.busy_seconds)
            elif record.peaks is None:
                notes.append("launching is not told apart: run `tpprof calibrate`, then measure")
                return None
            else:
                launching = activity.operators * record.peaks.launch_seconds
                found[id(cell), layer] = _Sum(constant=launching)
    return found


def _all_places(counterparts: Counterparts) -> list[SpanKey]:
    """The places of the cell, and those that only its cheaper twins have."""
    cells = [
        cell
        for cell in (counterparts.cell, counterparts.maps, counterparts.rows)
        if cell is not None
    ]
    listed = dict.fromkeys(span for cell in cells[:1] for span in spans(cell))
    for cell in cells[1:]:
        listed |= dict.fromkeys(
            p for p in spans(cell) if p in counterparts.mapped | counterparts.released
        )
    return list(listed)


def _about(name: str, counterparts: Counterparts) -> str:
    """What a part is; of the pruned layers, what they keep and how fast they run."""
    pruned, vanilla = counterparts.pruned, counterparts.vanilla
    plain = counterparts.plain(("prefill", "layer", pruned[-1])) if pruned else counterparts.cell
    if name == "pruned layers" and pruned:
        own, full = (sum(layer_flops(cell)[n] for n in pruned) for cell in (plain, vanilla))
        whole = units.percent(counterparts.flops_share)
        return f"FLOPs kept there: {units.percent(own / full)}, in the request: {whole}"
    if name == "shorter sequences" and pruned:
        own_rate, full_rate = (units.rate(layer_rate(cell, pruned)) for cell in (plain, vanilla))
        return f"pruned layers run at {own_rate}, in vanilla at {full_rate}"
    if name == "released code":
        return f"measured: `published` minus `{'maps' if counterparts.maps else 'rows'}`"
    if name in PHASES:
        own, full = (_phase_flops(cell, name) for cell in (counterparts.cell, vanilla))
        return PHASES[name] + (": not pruned" if own == full else "")
    return CAUSES.get(name, name)


def _phase_flops(cell: Cell, name: str) -> int:
    return sum(work.flops for work in cell.cost if work.phase == name)
