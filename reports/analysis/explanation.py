"""Why FLOPs and time disagree: what lies between the claim and the clock, cause by cause.

A waterfall begins with the claim that papers print, reaches the promise that FLOPs make phase by
phase (see promise), and ends at the clock. Every cause is what it adds to vanilla's time, as a
share of vanilla's latency of the same round: drift between rounds is in none. The shares times the
vanilla that the cell was paired with (its latency times its speed-up) are seconds. What stays
unexplained is the remainder, and is shown.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from .. import units
from ..record import labels
from ..record.cell import SpanKey
from ..record.schema import Cell, Record
from .advice import advice
from .by_round import SCORING, latencies, latency, paired_speedup, phase, spans, weighted
from .counterparts import (
    Counterparts,
    counted,
    counterparts_of,
    layer_flops,
    layer_rate,
)
from .intervals import Estimate, mean_interval
from .promise import flops_shares, over_promise, promise_of

ENDS = {
    "claimed": "vanilla's time, cut as the FLOPs of the language model's prefill are: what papers "
    "print",
    "promised": "each phase and layer, cut as its own FLOPs are",
    "measured": "the clock",
}
"""The levels of a waterfall: where it begins, what it passes, where it ends."""
STEPS = {
    "outside the decoder": "the claim cuts these phases too",
    "decode, but its cache": "a step does the work of all weights, however short the cache",
    "unequal layers": "the first layers take more, or less, of prefill's time than of its FLOPs",
}
"""From the claim to the promise."""
CAUSES = {
    "causal attention": "the promise counts both halves of attention, the kernel computes one",
    "attention maps": "measured: `maps` minus `rows`, where maps are built",
    "released code": "measured: `published` minus `maps`, or `rows`, of the same method",
    "scoring": "attention rows, or reading them from the map",
    "selection": "deciding, moving and merging tokens",
    "waiting for the host": "at least: launching, and waits, in the decoder layers",
    "shorter sequences": "fewer tokens are done at another rate than many",
    "decode steps": "against the share of FLOPs that is left of them",
    "layers before the prune": "they see every token, as in vanilla",
    "same work": "phases that do what they do in vanilla, in another time",
    "remainder": "what no cause accounts for",
}
"""From the promise to the clock."""
TRUSTED = 0.5  # of the gap: a remainder beyond it says that the split explains nothing


@dataclass(frozen=True)
class Contribution:
    """What one cause adds."""

    name: str
    seconds: float  # negative: it saves
    low: float | None = None  # 95 % interval over rounds, where there are enough
    high: float | None = None
    about: str = ""  # what it is


@dataclass(frozen=True)
class Explanation:
    """Where the time between claim and clock went. claimed_seconds and `steps` sum to
    promised_seconds; these and `causes` to measured_seconds.

    over_promise: measured over promised time, as in the table but also where it is noise.
    """

    claimed_seconds: float
    promised_seconds: float
    measured_seconds: float
    over_promise: Estimate
    steps: list[Contribution]
    causes: list[Contribution]
    advice: list[str] = field(default_factory=list)  # what follows from the data
    notes: list[str] = field(default_factory=list)  # what could not be told apart, or trusted
    trusted: bool = True  # False where the remainder is too large for the parts to say anything

    @property
    def contributions(self) -> list[Contribution]:
        """All, from the claim to the clock."""
        return [*self.steps, *self.causes]

    def walk(self, causes: list[Contribution] | None = None) -> list[Contribution]:
        """The levels of the waterfall and what lies between them; `causes` where other than its
        own are shown."""
        seconds = (self.claimed_seconds, self.promised_seconds, self.measured_seconds)
        claimed, promised, measured = (
            Contribution(name=name, seconds=level, about=ENDS[name])
            for name, level in zip(ENDS, seconds, strict=True)
        )
        shown = self.causes if causes is None else causes
        return [claimed, *self.steps, promised, *shown, measured]

    @property
    def within_noise(self) -> bool:
        """Whether the clock may have kept the promise exactly."""
        low, high = self.over_promise.low, self.over_promise.high
        return low is not None and high is not None and low < 1 < high


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

    def share(self, whole: dict[int, float]) -> Estimate | None:
        """The sum over `whole`, seconds by round, with its interval; without one where it is
        derived from counts alone. None where nothing is summed."""
        by_cell: dict[int, tuple[Cell, dict[SpanKey, float]]] = {}
        for cell, span, weight in self.weights:
            _, own = by_cell.setdefault(id(cell), (cell, {}))
            own[span] = own.get(span, 0.0) + weight
        series = [weighted(cell, own) for cell, own in by_cell.values()]
        rounds = set(whole).intersection(*series)
        shares = [
            (sum(values[number] for values in series) + self.constant) / whole[number]
            for number in sorted(rounds)
        ]
        found = mean_interval(shares)
        if found is None or series:
            return found
        return Estimate(found.value, None, None, found.samples) if self.constant else None


def explain(record: Record, cell: Cell) -> Explanation | None:
    """The explanation of one cell against vanilla; None for vanilla, and where there is no time."""
    counterparts = counterparts_of(record, cell)
    if counterparts is None or cell is counterparts.vanilla:
        return None
    vanilla, measured = counterparts.vanilla, latency(cell)
    promise, gain = promise_of(record, cell, vanilla), paired_speedup(vanilla, cell)
    if promise is None or measured is None or gain is None:
        return None
    whole, notes = measured.value * gain.value, list[str]()
    claimed, promised = promise.claim * whole, promise.share * whole
    steps = [
        _contribution(name, estimate.times(whole), _step_about(name, counterparts))
        for name, estimate in zip(STEPS, promise.steps.values(), strict=True)
    ]
    by_round = latencies(vanilla)
    sums = _sums(record, counterparts, notes)
    shares = {name: share for name, part in sums.items() if (share := part.share(by_round))}
    causes = [
        _contribution(name, share.times(whole), _about(name, counterparts))
        for name, share in shares.items()
        if share.value or share.low is not None
    ]
    rest = measured.value - promised - sum(part.seconds for part in causes)
    causes.append(Contribution(name="remainder", seconds=rest, about=CAUSES["remainder"]))
    found = Explanation(
        claimed_seconds=claimed,
        promised_seconds=promised,
        measured_seconds=measured.value,
        over_promise=over_promise(cell, vanilla, gain, promise),
        steps=steps,
        causes=causes,
        advice=advice(record, counterparts, causes),
        notes=notes,
    )
    if doubt := _doubt(found):
        return replace(found, notes=[*notes, doubt], trusted=False)
    return found


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


def _contribution(name: str, found: Estimate, about: str) -> Contribution:
    return Contribution(name=name, seconds=found.value, low=found.low, high=found.high, about=about)


def _doubt(found: Explanation) -> str:
    """Whether the remainder is too large for the split to be trusted."""
    rest = abs(found.causes[-1].seconds)
    gaps = [abs(found.measured_seconds - found.claimed_seconds)]
    if not found.within_noise:
        gaps.append(abs(found.measured_seconds - found.promised_seconds))
    if all(rest <= TRUSTED * gap for gap in gaps):
        return ""
    return (
        f"the remainder ({units.milliseconds(rest)} ms) is more than half of the gap: this split "
        "cannot be trusted"
    )


def _sums(record: Record, counterparts: Counterparts, notes: list[str]) -> dict[str, _Sum]:
    sums = {name: _Sum() for name in CAUSES if name != "remainder"}
    _outside(counterparts, sums)
    _layers(record, counterparts, sums, notes)
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


def _outside(counterparts: Counterparts, sums: dict[str, _Sum]) -> None:
    """What the phases but prefill took beyond the share of FLOPs that is left of them."""
    shares = flops_shares(counterparts.cell, counterparts.vanilla)

    def target(name: str) -> _Sum:
        if name == "decode":
            return sums["decode steps"]
        return sums["shorter sequences" if shares[name, None] < 1 else "same work"]

    for span in _all_places(counterparts):
        if span[0] != "prefill" and span[1] not in SCORING:
            target(span[0]).add(counterparts.plain(span), span)
    for span in spans(counterparts.vanilla):
        if span[0] != "prefill":
            share = shares[span[0], None]
            target(span[0]).add(counterparts.vanilla, span, -share)


def _layers(
    record: Record, counterparts: Counterparts, sums: dict[str, _Sum], notes: list[str]
) -> None:
    """What the decoder layers took in prefill beyond the share of FLOPs that is left of each."""
    vanilla, full = counterparts.vanilla, layer_flops(counterparts.vanilla)
    shares = flops_shares(counterparts.cell, vanilla)
    waits = _host_split(record, counterparts, full, notes)
    for layer in full:
        span: SpanKey = ("prefill", "layer", layer)
        plain, kept = counterparts.plain(span), shares[("prefill", layer)]
        target = sums["layers before the prune"]
        if layer in counterparts.pruned:
            causal = _causal_share(plain, vanilla, layer)
            sums["causal attention"].add(vanilla, span, causal - kept)
            kept, target = causal, sums["shorter sequences"]
        for cell, weight in ((plain, 1.0), (vanilla, -kept)):
            target.add(cell, span, weight)
            if waits is not None:
                target.subtract(waits[id(cell), layer], weight)
                sums["waiting for the host"].subtract(waits[id(cell), layer], -weight)
    layered = {("prefill", "layer", layer) for layer in full}
    for span in _all_places(counterparts):  # what prefill does beside its layers
        if span[0] == "prefill" and span[1] not in SCORING and span not in layered:
            sums["same work"].add(counterparts.plain(span), span)
    for span in spans(vanilla):
        if span[0] == "prefill" and span not in layered:
            sums["same work"].add(vanilla, span, -shares["prefill", None])


def _causal_share(own: Cell, vanilla: Cell, layer: int) -> float:
    """The share of a decoder layer's FLOPs that is left, as a causal kernel does them."""
    return layer_flops(own, causal=True)[layer] / layer_flops(vanilla, causal=True)[layer]


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


def _step_about(name: str, counterparts: Counterparts) -> str:
    """What a step from the claim to the promise is; of phases, how long vanilla's take."""
    if name != "outside the decoder":
        return STEPS[name]
    names = dict.fromkeys(part.phase for part in counterparts.vanilla.parts)
    spent = {
        name: found.value
        for name in names
        if name not in ("prefill", "decode") and (found := phase(counterparts.vanilla, name))
    }
    largest = sorted(spent, key=lambda name: -spent[name])[:2]
    listed = ", ".join(f"{name} {units.milliseconds(spent[name])} ms" for name in largest)
    return f"{listed} in vanilla: {STEPS[name]}"


def _about(name: str, counterparts: Counterparts) -> str:
    """What a cause is; of the pruned layers, how fast they run."""
    pruned, vanilla = counterparts.pruned, counterparts.vanilla
    plain = counterparts.plain(("prefill", "layer", pruned[-1])) if pruned else counterparts.cell
    if name == "shorter sequences" and pruned:
        own_rate, full_rate = (units.rate(layer_rate(cell, pruned)) for cell in (plain, vanilla))
        waits = "over their whole time, waits for the host included"
        return f"pruned layers come to {own_rate} {waits}, in vanilla to {full_rate}"
    if name == "released code":
        return f"measured: `published` minus `{'maps' if counterparts.maps else 'rows'}`"
    return CAUSES[name]
