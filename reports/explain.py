"""Why FLOPs and time disagree: the gap between promise and clock, split into parts that sum to it.

The promise is that the whole request shrinks to the share of FLOPs that remains: promised = share
* vanilla's latency. Every part of a request that did not shrink so far adds what it took beyond
its own share of vanilla's time; what stays unexplained is the remainder, and is shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from . import units
from .advice import advice
from .record import Cell, Contribution, Explanation, Record
from .statistics import median
from .summary import latency
from .twins import (
    SCORING,
    Place,
    Twins,
    activity,
    layer_flops,
    layer_seconds,
    places,
    twins,
    weighted,
)

PHASES = {
    "preprocess": "picture and text on the host",
    "transfer": "inputs to the device",
    "vision": "vision tower and projector",
    "embed": "text embedding, rotary tables",
    "head": "LM head",
    "decode": "the tokens after the first",
}
CAUSES = {
    "layers before the prune": "they see every token",
    "attention maps": "measured: `maps` minus `rows`, where maps are built",
    "scoring": "attention rows, or reading them from the map",
    "selection": "deciding, moving and merging tokens",
    "waiting for the host": "launching and waits in the layers after the prune",
    "remainder": "what no part accounts for",
}


@dataclass
class _Sum:
    """A sum over places of cells, each with a weight, and a constant; in seconds."""

    weights: list[tuple[Cell, Place, float]] = field(default_factory=list)
    constant: float = 0.0

    def add(self, cell: Cell, place: Place, weight: float = 1.0) -> None:
        self.weights.append((cell, place, weight))

    def contribution(self, name: str, about: str) -> Contribution:
        """The median over rounds, with its interval."""
        by_cell: dict[int, tuple[Cell, dict[Place, float]]] = {}
        for cell, place, weight in self.weights:
            _, own = by_cell.setdefault(id(cell), (cell, {}))
            own[place] = own.get(place, 0.0) + weight
        series = [weighted(cell, own) for cell, own in by_cell.values()]
        rounds = set.intersection(*map(set, series)) if series else set()
        sums = [sum(values[number] for values in series) + self.constant for number in rounds]
        found = median(sums)
        if found is None:
            return Contribution(name=name, seconds=self.constant, about=about)
        return Contribution(
            name=name, seconds=found.value, low=found.low, high=found.high, about=about
        )


def explain(record: Record, cell: Cell) -> Explanation | None:
    """The explanation of one cell against vanilla; None for vanilla, and where there is no time."""
    beside = twins(record, cell)
    share = beside.flops_share if beside else None
    if beside is None or share is None or cell is beside.vanilla:
        return None
    measured, whole = latency(cell), latency(beside.vanilla)
    assert measured is not None
    assert whole is not None
    promised = share * whole.value
    notes: list[str] = []
    sums = _sums(record, beside, share, notes)
    found = [part.contribution(name, _about(name, beside)) for name, part in sums.items()]
    found = [part for part in found if part.seconds or part.low is not None]
    rest = measured.value - promised - sum(part.seconds for part in found)
    found.append(Contribution(name="remainder", seconds=rest, about=CAUSES["remainder"]))
    told = advice(record, beside, found)
    return Explanation(
        promised_seconds=promised, measured_seconds=measured.value, contributions=found,
        advice=told, notes=notes,
    )  # fmt: skip


def attach(record: Record) -> None:
    """Put the explanation of every measured cell into the record."""
    for cell in record.cells:
        cell.explanation = explain(record, cell)


def _sums(record: Record, beside: Twins, share: float, notes: list[str]) -> dict[str, _Sum]:
    sums = _phases(beside, share)
    sums |= _layers(record, beside, share, notes)
    for place in _all_places(beside):
        if place[1] in SCORING:
            _decide(beside.plain(place), place, sums)
    for name, places_, dear, cheap in (
        ("attention maps", beside.mapped, beside.maps or beside.cell, beside.rows),
        ("released code", beside.released, beside.cell, beside.maps or beside.rows),
    ):
        if cheap is not None:
            for place in places_:
                sums[name].add(dear, place)
                sums[name].add(cheap, place, -1)
    if beside.rows is None and beside.cell.attention == "maps":
        notes.append("the cost of attention maps is not told apart: measure `rows` beside them")
    return sums


def _decide(plain: Cell, place: Place, sums: dict[str, _Sum]) -> None:
    """The time of a score or selection. Where it made the host wait, the device idles until the
    host has launched more: that is waiting for the host."""
    target = sums["scoring" if place[1] == "score" else "selection"]
    counted = activity(plain).get(place)
    if counted and counted.syncs and counted.busy_seconds is not None:
        target.constant += counted.busy_seconds
        target = sums["waiting for the host"]
        target.constant -= counted.busy_seconds
    target.add(plain, place)


def _phases(beside: Twins, share: float) -> dict[str, _Sum]:
    """What pruning in the decoder does not touch, phase by phase."""
    sums: dict[str, _Sum] = {}
    for place in _all_places(beside):
        if place[0] != "prefill" and place[1] not in SCORING:
            sums.setdefault(place[0], _Sum()).add(beside.plain(place), place)
    for place in places(beside.vanilla):
        if place[0] != "prefill":
            sums.setdefault(place[0], _Sum()).add(beside.vanilla, place, -share)
    return sums


def _layers(record: Record, beside: Twins, share: float, notes: list[str]) -> dict[str, _Sum]:
    names = (
        "layers before the prune", "layers after the prune", "attention maps", "released code",
        "scoring", "selection", "waiting for the host", "shorter sequences",
    )  # fmt: skip
    sums = {name: _Sum() for name in names}
    own, full, pruned = layer_flops(beside.cell), layer_flops(beside.vanilla), beside.pruned
    split = _host_split(record, beside, pruned, notes)
    for layer in full:
        place: Place = ("prefill", "layer", layer)
        plain, vanilla = beside.plain(place), beside.vanilla
        if layer not in pruned:
            sums["layers before the prune"].add(plain, place)
            sums["layers before the prune"].add(vanilla, place, -share)
            continue
        part = own[layer] / full[layer]
        sums["layers after the prune"].add(vanilla, place, part - share)
        target = sums["shorter sequences"]
        target.add(plain, place)
        target.add(vanilla, place, -part)
        if split:
            for cell, sign in ((plain, 1.0), (vanilla, -part)):
                constant, timed = split[id(cell)][layer]
                waiting = sums["waiting for the host"]
                waiting.constant += sign * constant
                target.constant -= sign * constant
                if timed:
                    waiting.add(cell, place, sign)
                    target.add(cell, place, -sign)
    return sums


def _host_split(
    record: Record, beside: Twins, layers: list[int], notes: list[str]
) -> dict[int, dict[int, tuple[float, bool]]] | None:
    """For each cell and layer, what of its time the device waited for the host.

    A constant, and whether the layer's own time is added to it: on a GPU the time less that for
    which the device was busy; on a CPU operators times the least time that one takes. None where
    it cannot be told.
    """
    found: dict[int, dict[int, tuple[float, bool]]] = {}
    for layer in layers:
        place: Place = ("prefill", "layer", layer)
        for cell in (beside.plain(place), beside.vanilla):
            counted = activity(cell).get(place)
            if counted is None:
                notes.append("waiting for the host is not told apart: no activity was counted")
                return None
            if counted.busy_seconds is not None:
                found.setdefault(id(cell), {})[layer] = (-counted.busy_seconds, True)
            elif record.peaks is None:
                notes.append("launching is not told apart: run `tpprof calibrate`, then measure")
                return None
            else:
                seconds = counted.operators * record.peaks.launch_seconds
                found.setdefault(id(cell), {})[layer] = (seconds, False)
    return found


def _all_places(beside: Twins) -> list[Place]:
    """The places of the cell, and those that only its cheaper twins have."""
    cells = [cell for cell in (beside.cell, beside.maps, beside.rows) if cell is not None]
    listed = dict.fromkeys(place for cell in cells[:1] for place in places(cell))
    for cell in cells[1:]:
        listed |= dict.fromkeys(p for p in places(cell) if p in beside.mapped | beside.released)
    return list(listed)


def _about(name: str, beside: Twins) -> str:
    """What a part is; of the layers after the prune, what they keep and how fast they run."""
    pruned, vanilla = beside.pruned, beside.vanilla
    plain = beside.plain(("prefill", "layer", pruned[-1])) if pruned else beside.cell
    flops = [sum(layer_flops(cell)[n] for n in pruned) for cell in (plain, vanilla)]
    if name == "layers after the prune" and flops[1]:
        kept, whole = flops[0] / flops[1], beside.flops_share
        return f"FLOPs kept there: {units.percent(kept)}, in the request: {units.percent(whole)}"
    if name == "shorter sequences":
        rates = [
            units.rate(count / seconds if (seconds := layer_seconds(cell, pruned)) else None)
            for cell, count in zip((plain, vanilla), flops, strict=True)
        ]
        return f"layers after the prune: {rates[0]}; in vanilla: {rates[1]}"
    if name == "released code":
        return f"measured: `published` minus `{'maps' if beside.maps else 'rows'}`"
    if name in PHASES:
        own, full = (_phase_flops(cell, name) for cell in (beside.cell, vanilla))
        return PHASES[name] + (": not pruned" if own == full else "")
    return CAUSES.get(name, name)


def _phase_flops(cell: Cell, name: str) -> int:
    return sum(work.flops for work in cell.cost if work.phase == name)
