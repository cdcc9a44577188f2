"""Plain advice that follows from where the time went; every figure in it is measured or derived."""

from __future__ import annotations

import math

from . import units
from .names import ran
from .record import Contribution, Record
from .statistics import Estimate
from .summary import latency, phase
from .twins import Place, Twins, activity, layer_flops, layer_seconds, places

WORTH = 0.05  # of the cell's latency: less is not worth a change
BUSY = 0.7  # busy for less of decode than this: the device waits for the host
KEPT = 0.1  # launching takes less of the layers than this: the promise is kept


def advice(record: Record, beside: Twins, contributions: list[Contribution]) -> list[str]:
    """One sentence for each change that the data says is worth making, the largest first."""
    measured = latency(beside.cell)
    assert measured is not None
    found = {part.name: part.seconds for part in contributions}
    worth = WORTH * measured.value
    told = [
        (found.get("attention maps", 0.0), _rows(beside, found)),
        (found.get("released code", 0.0), _released(found)),
        (found.get("layers before the prune", 0.0), _earlier(beside)),
        (found.get("scoring", 0.0) + found.get("selection", 0.0), _stages(beside, found)),
        (found.get("waiting for the host", 0.0), _launching(record, beside)),
        (_seconds(phase(beside.cell, "decode")), _decode(record, beside)),
        (sum(found.get(name, 0.0) for name in ("preprocess", "vision")), _limit(beside)),
    ]
    ranked = sorted((pair for pair in told if pair[0] > worth and pair[1]), reverse=True)
    return [sentence for _, sentence in ranked]


def _rows(beside: Twins, found: dict[str, float]) -> str:
    return (
        f"Read rows instead of maps: {_ms(found['attention maps'])} less, measured in this run. "
        "The score needs a few attention rows; the map is what keeps the fast kernel out."
        if beside.rows and "attention maps" in found
        else ""
    )


def _released(found: dict[str, float]) -> str:
    return (
        f"The released code takes {_ms(found['released code'])} more than the same method with "
        "maps in the scored layers alone: keep the fast kernel in all others, and masks off the "
        "host."
        if "released code" in found
        else ""
    )


def _earlier(beside: Twins) -> str:
    """What one layer less before the prune would save: its time, cut as the next ones are."""
    pruned = beside.pruned
    if not pruned or pruned[0] < 2:
        return ""
    own, full = layer_flops(beside.cell), layer_flops(beside.vanilla)
    first = pruned[0]
    layer = layer_seconds(beside.plain(("prefill", "layer", first - 1)), [first - 1])
    saved = layer * (1 - own[first] / full[first])
    return (
        f"Prune earlier: {first} layers see every token; each one less saves about {_ms(saved)} "
        "(its time, cut by the FLOPs that the next layer saves)."
    )


def _stages(beside: Twins, found: dict[str, float]) -> str:
    stages = [place for place in places(beside.cell) if place[1] in ("score", "select")]
    layers = len({(phase_, index) for phase_, _, index in stages})
    scoring, selection = found.get("scoring", 0.0), found.get("selection", 0.0)
    cheaper = "Fewer stages" if layers > 1 else "A cheaper selection"
    return (
        f"{cheaper}: scoring takes {_ms(scoring)} and selection {_ms(selection)} at "
        f"{layers} place{'s' if layers > 1 else ''}."
    )


def _launching(record: Record, beside: Twins) -> str:
    batch = kept_from_batch(record, beside)
    waits = sum(part.syncs or 0 for part in beside.cell.activity if part.phase == "prefill")
    stopped = f" The method makes the host wait {waits} times in prefill." if waits else ""
    if batch is None:
        return ""
    return (
        "The layers after the prune wait for the host: fewer tokens do not launch faster. From "
        f"batch {batch} on, launching takes less than {units.percent(KEPT, 0)} of them "
        f"(this run: {record.request.batch}).{stopped}"
    )


def kept_from_batch(record: Record, beside: Twins) -> int | None:
    """The batch size from which launching takes less than a tenth of the layers after the prune.

    Launching takes the same time whatever the batch, the rest grows with it; None if unknown.
    """
    launching = working = 0.0
    for layer in beside.pruned:
        place: Place = ("prefill", "layer", layer)
        plain = beside.plain(place)
        spent, counted = layer_seconds(plain, [layer]), activity(plain).get(place)
        if counted is None:
            return None
        if counted.busy_seconds is not None:
            waited = spent - counted.busy_seconds
        elif record.peaks is not None:
            waited = counted.operators * record.peaks.launch_seconds
        else:
            return None
        launching, working = launching + waited, working + spent - waited
    if working <= 0:
        return None
    wanted = launching * (1 - KEPT) / KEPT / working
    return max(record.request.batch, math.ceil(wanted * record.request.batch))


def _decode(record: Record, beside: Twins) -> str:
    """Whether decode waits for the host: by busy time on a GPU, by operators on a CPU."""
    if ran(beside.cell) != "eager":
        return ""
    spent = _seconds(phase(beside.cell, "decode"))
    parts = [part for part in beside.cell.activity if part.phase == "decode"]
    busy = [part.busy_seconds for part in parts if part.busy_seconds is not None]
    if not parts or not spent or len(busy) < len(parts):
        return ""
    if sum(busy) >= BUSY * spent:
        return ""
    return (
        f"Decode is launch-bound: the device is busy for {units.percent(sum(busy) / spent, 0)} of "
        f"its {_ms(spent)}. Capture it as a CUDA graph (`--runtime graph`); pruning cannot help it."
    )


def _limit(beside: Twins) -> str:
    """How much faster a request could become if the decoder layers took no time at all."""
    whole, prefill = latency(beside.vanilla), phase(beside.vanilla, "prefill")
    if whole is None or prefill is None:
        return ""
    limit = whole.value / (whole.value - prefill.value)
    return (
        f"Pruning in the decoder cannot exceed {units.times(limit)} here: "
        f"{_ms(whole.value - prefill.value)} of vanilla's {_ms(whole.value)} lie outside its "
        "layers. Prune in the vision tower, or make it faster."
    )


def _seconds(estimate: Estimate | None) -> float:
    return estimate.value if estimate else 0.0


def _ms(spent: float) -> str:
    return f"{units.milliseconds(spent)} ms"
