"""Plain advice that follows from where the time went; every figure in it is measured or derived."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from .. import units
from ..record.cell import SpanKey
from ..record.schema import Cell, Record
from .by_round import latency, pairs, phase, spans
from .counterparts import Counterparts, counted, layer_flops, layer_seconds
from .intervals import Estimate, median_interval
from .promise import flops_shares

if TYPE_CHECKING:
    from .explanation import Contribution

REMEDIES = {
    "vision": "Prune in the vision tower, or make it faster",
    "preprocess": "Prepare pictures in another process, while the device works",
}
"""What helps against phases that no pruning in the decoder touches."""
ON_DEVICE = "Process pictures on the device (`--preprocess device`), or in another process"
WORTH = 0.05  # of the cell's latency: less is not worth a change
HOST = "waiting for the host"  # derived from counts: it has no interval
BUSY = 0.7  # busy for less of decode than this: the device waits for the host
KEPT = 0.1  # launching takes less of the layers than this: the promise is kept


def advice(
    record: Record, counterparts: Counterparts, contributions: list[Contribution]
) -> list[str]:
    """One sentence for each change that the data says is worth making, the largest first; none from
    too few rounds."""
    measured = latency(counterparts.cell)
    if measured is None or untold(contributions):
        return []
    known = {part.name: part for part in contributions}

    def of(*names: str) -> float:
        """Seconds of these parts that are there for sure: not those that may be noise."""
        return sum(known[name].seconds for name in names if name in known and _sure(known[name]))

    maps = min(of("attention maps"), _slower(counterparts.cell, counterparts.rows))
    decode = phase(counterparts.cell, "decode")
    saved, largest = _saved(counterparts), _largest(counterparts)
    found: list[tuple[float, Callable[[], str]]] = [
        (maps, lambda: _rows(maps)),
        (of("released code"), lambda: _released(of("released code"))),
        (saved, lambda: _earlier(counterparts, saved)),
        (of("scoring", "selection"), lambda: _stages(counterparts, of("scoring"), of("selection"))),
        (of("waiting for the host"), lambda: _launching(record, counterparts)),
        (decode.value if decode else 0.0, lambda: _decode(record, counterparts, decode)),
        (largest[1], lambda: _limit(record, counterparts, *largest)),
    ]
    found.sort(key=lambda pair: -pair[0])
    worth = [say() for seconds, say in found if seconds > WORTH * measured.value]
    return [sentence for sentence in worth if sentence]


def untold(contributions: list[Contribution]) -> bool:
    """Whether no part has an interval, so that nothing can be said of what they are worth: what is
    derived from counts has none in any case."""
    return all(part.low is None for part in contributions)


def _sure(part: Contribution) -> bool:
    """Whether a part is more than noise; what is derived from counts has no interval."""
    return part.name == HOST if part.low is None else part.low > 0


def _slower(cell: Cell, other: Cell | None) -> float:
    """Seconds that a request of a cell takes more than one of another, round by round; 0 where that
    may be noise. What a part would save, a wait elsewhere can take back."""
    differences = [own - cheaper for cheaper, own in pairs(other, cell)] if other else []
    found = median_interval(differences) if differences else None
    return found.value if found and found.low is not None and found.low > 0 else 0.0


def _rows(spent: float) -> str:
    return (
        f"Read rows instead of maps: {_ms(spent)} less, measured in this run. The score needs a "
        "few attention rows; the map is what keeps the fast kernel out."
    )


def _released(spent: float) -> str:
    return (
        f"The released code takes {_ms(spent)} more than the same method without its detours: keep "
        "the fast kernel in the layers that are not scored, and masks and positions off the host."
    )


def _saved(counterparts: Counterparts) -> float:
    """What one layer less before the prune would save: its time, cut as the next ones are."""
    pruned = counterparts.pruned
    if not pruned or pruned[0] < 2:
        return 0.0
    own, full = (
        layer_flops(cell, causal=True) for cell in (counterparts.cell, counterparts.vanilla)
    )
    first = pruned[0]
    layer = layer_seconds(counterparts.plain(("prefill", "layer", first - 1)), [first - 1])
    return layer * (1 - own[first] / full[first])


def _earlier(counterparts: Counterparts, saved: float) -> str:
    return (
        f"Prune earlier: {counterparts.pruned[0]} layers see every token; each one less saves "
        f"about {_ms(saved)} (its time, cut by the FLOPs that the next layer saves). What it does "
        "to accuracy is not measured here."
    )


def _stages(counterparts: Counterparts, scoring: float, selection: float) -> str:
    stages = {span[:1] + span[2:] for span in spans(counterparts.cell) if span[1] == "select"}
    cheaper = "Fewer stages" if len(stages) > 1 else "A cheaper selection"
    return (
        f"{cheaper}: scoring takes {_ms(scoring)} and selection {_ms(selection)}, at "
        f"{len(stages)} place{'s' if len(stages) > 1 else ''}. Accuracy is not measured here."
    )


def _launching(record: Record, counterparts: Counterparts) -> str:
    batch = kept_from_batch(record, counterparts)
    waits = sum(part.syncs or 0 for part in counterparts.cell.activity if part.phase == "prefill")
    stopped = f" The method makes the host wait {waits} times in prefill." if waits else ""
    if batch is None:
        return ""
    return (
        "The decoder layers wait for the host: fewer tokens do not launch faster. From batch "
        f"{batch} on, launching takes less than {units.percent(KEPT, 0)} of the pruned ones "
        f"(this run: {record.request.batch}).{stopped}{_captured(counterparts.cell)}"
    )


def _captured(cell: Cell) -> str:
    """Whether CUDA graphs would help layers that wait for the host; nothing is said of a CPU."""
    if all(part.busy_seconds is None for part in cell.activity):
        return ""
    if cell.runtime == "eager" and cell.host_waits:
        return " CUDA graphs (`--runtime graph`) hold no decision that makes the host wait."
    if cell.runtime == "eager":
        return " As CUDA graphs (`--runtime graph`) they need not wait."
    reason = cell.fallback or cell.eager_prefill
    return f" They run eager: {reason.rstrip('.')}." if reason else ""


def kept_from_batch(record: Record, counterparts: Counterparts) -> int | None:
    """The batch size from which launching takes less than a tenth of the pruned layers; None if
    unknown.

    Work grows with the batch, launching does not. On a GPU the two overlap: it waits while the
    host is the slower, for the span of this run. On a CPU they add up.
    """
    launching = spent = busy = 0.0
    for layer in counterparts.pruned:
        span: SpanKey = ("prefill", "layer", layer)
        plain = counterparts.plain(span)
        activity = counted(plain).get(span)
        if activity is None or (activity.busy_seconds is None and record.peaks is None):
            return None
        spent += layer_seconds(plain, [layer])
        busy += activity.busy_seconds or 0.0
        launching += activity.operators * (record.peaks.launch_seconds if record.peaks else 0.0)
    if busy:
        wanted = (1 - KEPT) * spent / busy
    elif spent > launching:
        wanted = launching * (1 - KEPT) / KEPT / (spent - launching)
    else:
        return None
    return max(record.request.batch, math.ceil(wanted * record.request.batch))


def _decode(record: Record, counterparts: Counterparts, decode: Estimate | None) -> str:
    """Where a GPU idles in decode; graphs that are captured already, or were seen not to be
    possible, or no GPU, say nothing."""
    parts = [part for part in counterparts.cell.activity if part.phase == "decode"]
    busy = [part.busy_seconds for part in parts if part.busy_seconds is not None]
    own = counterparts.cell
    refused = any(
        cell.fallback and cell.runtime == "graph"
        for cell in record.cells
        if (cell.method, cell.attention) == (own.method, own.attention)
    )
    if own.runtime != "eager" or refused or decode is None or not busy or len(busy) < len(parts):
        return ""
    share = sum(busy) / decode.value
    if share >= BUSY:
        return ""
    return (
        f"Decode is launch-bound: the device is busy for {units.percent(share, 0)} of its "
        f"{_ms(decode.value)}. Capture it as a CUDA graph (`--runtime graph`); fewer tokens do not "
        "launch faster."
    )


def _largest(counterparts: Counterparts) -> tuple[str, float]:
    """The phase outside the decoder on which the cell spends most, of those that can be helped."""
    spent = {name: phase(counterparts.cell, name) for name in REMEDIES}
    known = {name: found.value for name, found in spent.items() if found}
    name = max(known, key=lambda name: known[name], default="")
    return name, known.get(name, 0.0)


def _limit(record: Record, counterparts: Counterparts, name: str, spent: float) -> str:
    """What to do about a phase outside the decoder."""
    remedy = REMEDIES[name]
    if name == "vision":
        share = flops_shares(counterparts.cell, counterparts.vanilla)[name, None]
        remedy = "Make the vision tower faster" if share < 1 else remedy
    elif record.spec.workload.preprocess == "host" and not record.spec.workload.is_video:
        remedy = ON_DEVICE
    return f"{remedy}: {_ms(spent)} of this request are {name}, outside the decoder."


def _ms(spent: float) -> str:
    return f"{units.milliseconds(spent)} ms"
