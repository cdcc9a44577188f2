"""What is promised of a method, in three ways, which share of the time it can touch at all, and how
much faster no pruning can make a request.

All are shares of vanilla's time in the same round. From the weakest to the strongest:

- the claim, as papers print it: the whole request shrinks as the FLOPs of the language model's
  prefill do;
- FLOPs, phase by phase: each phase takes the share of its own FLOPs of its own time, each decoder
  layer in prefill by itself; what does no matrix products takes as long as before;
- floors, phase by phase: the same with the least time that the device allows for the work, where
  its peaks are known; it knows that a decode step reads all weights whatever the cache.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..record.cell import SpanKey
from ..record.schema import Cell, Cost, Record
from . import roofline
from .by_round import SCORING, latencies, latency, paired_speedup, phase, spans, weighted
from .intervals import (
    CONFIDENCE,
    FEWEST,
    Estimate,
    central,
    median_interval,
    speedup,
    trimmed,
)

STEPS: dict[str, Callable[[str], bool]] = {
    "outside": lambda phase: phase not in ("prefill", "decode"),
    "decode": lambda phase: phase == "decode",
    "layers": lambda phase: phase == "prefill",
}
"""What lies between the claim and the promise: in which phases."""
OUTSIDE = ("preprocess", "transfer", "vision", "embed", "head")
"""The phases outside the decoder layers."""
Place = tuple[str, int | None]  # a phase, or one decoder layer of prefill


class Shares(dict[Place, float]):
    """By phase, or decoder layer of prefill, what is left of vanilla's; all, where it has none."""

    def __missing__(self, place: Place) -> float:
        return 1.0


@dataclass(frozen=True)
class Promise:
    """What is promised of a cell, in shares of vanilla's time.

    claim: share of the FLOPs of prefill's decoder layers that is left. steps: what lies between the
    claim and the promise, phase by phase: `outside` the decoder layers, `decode`, `layers` (of
    prefill, which do not all take the same time). by_round: the promise in each round that both
    have. floors: by floors, None where they are unknown.
    """

    claim: float
    steps: dict[str, Estimate]
    by_round: dict[int, float]
    floors: float | None

    @property
    def share(self) -> float:
        """The share of vanilla's time that FLOPs promise, phase by phase."""
        return self.claim + sum(step.value for step in self.steps.values())


@dataclass(frozen=True)
class Bound:
    """How much faster pruning in the decoder can make a request, if it sees no visual token at all.

    speedup: vanilla's time over what is left then: the phases outside the decoder, as they were
    measured, and the least time for the text and the weights (`read_seconds`, None where that is
    not known). outside: these phases, in seconds. beyond: the methods that prune outside the
    decoder too, which it does not bind.
    """

    vanilla: Cell
    speedup: Estimate
    outside: dict[str, float]
    read_seconds: float | None
    beyond: list[str]


def promise_of(record: Record, cell: Cell, vanilla: Cell) -> Promise | None:
    """What is promised of `cell`; None where the two were not measured in one round, where no FLOPs
    are known, or where the parts of vanilla cannot be those of its latency."""
    claim = claimed_share(cell, vanilla)
    whole = latencies(vanilla)
    rounds = sorted(whole.keys() & {sample.round for sample in cell.samples})
    if claim is None or not rounds:
        return None
    flops = flops_shares(cell, vanilla)
    series = {
        name: weighted(vanilla, _weights(vanilla, flops, claim, within))
        for name, within in STEPS.items()
    }
    timed = weighted(vanilla, dict.fromkeys(spans(vanilla), 1.0))
    for number in rounds:  # what lies between the parts stays
        series["outside"][number] += (1 - claim) * (whole[number] - timed[number])
    shares = {name: [own[n] / whole[n] for n in rounds] for name, own in series.items()}
    promised = [claim + sum(at) for at in zip(*shares.values(), strict=True)]
    if min(promised) <= 0:
        return None
    chosen = central(promised)
    steps = {name: _mean_of(values, chosen) for name, values in shares.items()}
    by_round = dict(zip(rounds, promised, strict=True))
    return Promise(claim, steps, by_round, _by_floors(record, cell, vanilla, rounds))


def promised_seconds(cell: Cell, vanilla: Cell, name: str) -> float | None:
    """The time of one phase that its FLOPs promise: as a share of vanilla's latency, round by
    round, times the vanilla that the cell was paired with."""
    weights = _weights(vanilla, flops_shares(cell, vanilla), 0.0, lambda phase: phase == name)
    gain, measured = paired_speedup(vanilla, cell), latency(cell)
    if not weights or gain is None or measured is None:
        return None
    series, whole = weighted(vanilla, weights), latencies(vanilla)
    shares = [series[number] / whole[number] for number in latencies(cell) if number in whole]
    share = statistics.fmean([shares[place] for place in central(shares)])
    return share * measured.value * gain.value


def over_promise(cell: Cell, vanilla: Cell, gain: Estimate, promise: Promise) -> Estimate:
    """Measured time over promised time, where the clock says `gain`; its interval from the pairs of
    each round."""
    value = 1 / promise.share / gain.value
    own, full = latencies(cell), latencies(vanilla)
    logs = [math.log(own[n] / (full[n] * share)) for n, share in promise.by_round.items()]
    if len(logs) < FEWEST:
        return Estimate(value, None, None, len(logs))
    reach = math.exp(trimmed(logs).reach(CONFIDENCE))
    return Estimate(value, value / reach, value * reach, len(logs))


def claimed_share(cell: Cell, vanilla: Cell) -> float | None:
    """The FLOPs of prefill's decoder layers over vanilla's."""
    own, full = (
        sum(work.flops for work in _shared_work(one) if work.phase == "prefill")
        for one in (cell, vanilla)
    )
    return own / full if own and full else None


def flops_shares(cell: Cell, vanilla: Cell) -> Shares:
    """The share of vanilla's FLOPs that is left."""
    return _shares(cell, vanilla, lambda c: ((place_of_work(w), w.flops) for w in _shared_work(c)))


def touched_share(cell: Cell, vanilla: Cell) -> Estimate | None:
    """The share of vanilla's latency that it spends where `cell` has less work: all that its
    pruning can make shorter (Amdahl). None where no work is known by formula, or no time."""
    whole = latencies(vanilla)
    if not (cell.cost and vanilla.cost and whole):
        return None
    touched = lessened(cell.cost, vanilla.cost)
    if _patches(cell) < _patches(vanilla):  # a smaller picture: less to process and to move, too
        touched |= dict.fromkeys([("preprocess", None), ("transfer", None)], 1.0)
    spent = weighted(vanilla, {span: touched.get(place_of(span), 0.0) for span in spans(vanilla)})
    return median_interval([spent[number] / whole[number] for number in whole])


def lessened(own: Iterable[Cost], full: Iterable[Cost]) -> dict[Place, float]:
    """By phase, or decoder layer of prefill, the share of its work in the `full` request that lies
    where the `own` one has less: all or nothing, but in the vision tower, whose layers are not
    timed one by one, that of their FLOPs. The work of deciding what goes does not count."""
    left, before = _amounts(own), _amounts(full)
    whole, touched = Counter[Place](), Counter[Place]()
    for key, amount in before.items():
        whole[key[0]] += amount
        touched[key[0]] += amount if left[key] < amount else 0
    return {place: touched[place] / whole[place] for place in touched if touched[place]}


def bound_of(record: Record, vanilla: Cell) -> Bound | None:
    """What no pruning in the decoder can pass; None where vanilla was not measured."""
    whole, inside = latencies(vanilla), {"prefill", "decode"}
    if not whole:
        return None
    touched: dict[str, set[str]] = {}
    for cell in record.cells:
        touched.setdefault(cell.method, set()).update(_phases_touched(cell, vanilla))
    if {"embed"} in [names - inside for names in touched.values()]:
        inside.add("embed")
    found = {name: phase(vanilla, name) for name in OUTSIDE if name not in inside}
    outside = {name: estimate.value for name, estimate in found.items() if estimate}
    left = weighted(vanilla, {span: 1.0 for span in spans(vanilla) if span[0] in outside})
    read = _read_seconds(record, inside)
    least = {number: left[number] + (read or 0.0) for number in whole}
    if not all(least.values()):
        return None
    gain = speedup([(whole[number], least[number]) for number in whole])
    assert gain is not None
    beyond = [method for method, names in touched.items() if names - {*inside, "embed"}]
    return Bound(vanilla, gain, outside, read, beyond)


def _weights(
    vanilla: Cell, shares: Shares, less: float, within: Callable[[str], bool]
) -> dict[SpanKey, float]:
    """By place of vanilla, the share that is left, `less` so much."""
    return {span: shares[place_of(span)] - less for span in spans(vanilla) if within(span[0])}


def _by_floors(record: Record, cell: Cell, vanilla: Cell, rounds: list[int]) -> float | None:
    peaks, dtype = record.peaks, record.model.dtype
    if peaks is None or dtype not in peaks.flops_per_second:
        return None

    def floors(of: Cell) -> Iterable[tuple[Place, float]]:
        found = roofline.part_seconds(peaks, _shared_work(of), dtype)
        return ((place_of(span), seconds) for span, seconds in found.items())

    whole, shares = latencies(vanilla), _shares(cell, vanilla, floors)
    saved = weighted(vanilla, _weights(vanilla, shares, 1.0, lambda phase: True))
    values = [1 + saved[number] / whole[number] for number in rounds]
    return statistics.fmean([values[place] for place in central(values)])


def _shares(
    cell: Cell, vanilla: Cell, of: Callable[[Cell], Iterable[tuple[Place, float]]]
) -> Shares:
    own, full = (_summed(of(one)) for one in (cell, vanilla))
    return Shares({place: own.get(place, 0.0) / full[place] for place in full if full[place]})


def _summed(amounts: Iterable[tuple[Place, float]]) -> dict[Place, float]:
    found: dict[Place, float] = {}
    for place, amount in amounts:
        found[place] = found.get(place, 0.0) + amount
    return found


def _shared_work(cell: Cell) -> list[Cost]:
    """The work of the parts that vanilla has too: not that of deciding what goes."""
    return _shared(cell.cost)


def _shared(cost: Iterable[Cost]) -> list[Cost]:
    return [work for work in cost if work.part not in SCORING]


def place_of_work(work: Cost) -> Place:
    """The phase, or decoder layer of prefill, that work belongs to."""
    return place_of((work.phase, work.part, work.index))


def place_of(span: SpanKey) -> Place:
    """Decoder layers of prefill stand by themselves."""
    name, part, index = span
    return name, index if (name, part) == ("prefill", "layer") else None


def _mean_of(values: list[float], chosen: list[int]) -> Estimate:
    """The mean of the chosen values, so that several of them sum as their rounds do."""
    value = statistics.fmean([values[place] for place in chosen])
    if len(values) < FEWEST:
        return Estimate(value, None, None, len(values))
    reach = trimmed(values).reach(CONFIDENCE)
    return Estimate(value, value - reach, value + reach, len(values))


def _phases_touched(cell: Cell, vanilla: Cell) -> set[str]:
    """The phases in which `cell` does less work than vanilla; none where its work is not known."""
    return {phase for phase, _ in lessened(cell.cost, vanilla.cost)} if cell.cost else set()


def _patches(cell: Cell) -> int:
    """The work that grows with the picture alone: no method prunes before the patch embedding."""
    return sum(work.flops for work in cell.cost if work.operator == "patch embedding")


def _amounts(cost: Iterable[Cost]) -> Counter[tuple[Place, object]]:
    """FLOPs of each place, of each operator of each layer in the tower; the bytes that are read
    where a place has no FLOPs."""
    works = _shared(cost)
    counted = {place_of_work(work) for work in works if work.flops}
    found = Counter[tuple[Place, object]]()
    for work in works:
        place = place_of_work(work)
        finer = (work.index, work.operator) if work.phase == "vision" else None
        found[place, finer] += work.flops if place in counted else work.read_bytes
    return found


def _read_seconds(record: Record, phases: set[str]) -> float | None:
    """The least time for the text and the weights in these phases."""
    peaks, dtype = record.peaks, record.model.dtype
    if peaks is None or dtype not in peaks.flops_per_second or not record.text_only:
        return None
    floors = roofline.phase_seconds(peaks, record.text_only, dtype)
    return sum(floors.get(name, 0.0) for name in phases)
