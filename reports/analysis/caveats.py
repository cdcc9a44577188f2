"""What a reader must know before believing the table: said above it, made from the record."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from statistics import median

from .. import units
from ..record.labels import name
from ..record.schema import Cell, Process, Record
from .accuracy.scores import reasons
from .intervals import FEWEST
from .phases import phase_rows
from .summary import Row, rows

CLOCK_SPREAD = 0.03  # SM clocks of two cells further apart than this were not the same machine


def warnings(record: Record, listed: list[Row] | None = None) -> list[str]:
    """One line for each thing that makes the numbers worth less; empty for a clean run. listed: the
    rows of the record, where they are known already."""
    found = [
        _failed(record),
        _interrupted(record),
        *record.environment.warnings,
        *(f"picture {note}." for note in record.request.notes),
        *past_positions(record.request.positions, record.model.positions, record.model.name),
        _marks(record),
        _throttled(record),
        _others(record),
        _clocks(record),
        _outcomes(record),
        _loads(record),
        _precision(record, rows(record) if listed is None else listed),
        _floors(record),
        *_flops(record),
        *reasons(record),
        _host_waits(record),
    ]
    return [line for line in found if line]


def _failed(record: Record) -> str:
    failed = [cell for cell in record.cells if cell.error]
    if not failed:
        return ""
    why = "; ".join(dict.fromkeys(f"{_cut(name(cell))}: {_cut(cell.error)}" for cell in failed))
    return f"{len(failed)} of {len(record.cells)} cells failed: {why.rstrip('.')}."


def _cut(text: str, most: int = 120) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def _interrupted(record: Record) -> str:
    if record.complete:
        return ""
    counts = [len({sample.round for sample in cell.samples}) for cell in record.cells]
    if not any(counts):
        return "the run was interrupted before anything was measured."
    least, most = min(counts), max(counts)
    span = f"{most} round" + "s" * (most > 1) if least == most else f"{least} to {most} rounds"
    return f"the run was interrupted: {span} a cell measured until then."


def past_positions(used: int | None, most: int | None, model: str) -> list[str]:
    """More positions than the model is made for: its answer means nothing, though its time does."""
    if used is None or most is None or used <= most:
        return []
    return [
        f"the request takes {used:,} positions, and {model} is made for {most:,}: what it answers "
        "means nothing."
    ]


def _marks(record: Record) -> str:
    samples = [sample for cell in record.cells for sample in cell.samples]
    counts = Counter(mark for sample in samples for mark in set(sample.marks))
    if not counts:
        return ""
    listed = ", ".join(f"{mark} in {number}" for mark, number in counts.most_common())
    return f"suspect samples: {listed} of {len(samples)}. They are kept and count."


def _width(precision: float | None) -> str:
    return "too few rounds" if precision is None else f"±{units.percent(precision)}"


def _throttled(record: Record) -> str:
    before = {
        reason
        for process in record.processes
        if process.gpu_before is not None
        for reason in process.gpu_before.throttled or []
    }
    if not before:
        return ""
    return f"the GPU was throttled before anything ran: {', '.join(sorted(before))}."


def _others(record: Record) -> str:
    states = [s for p in record.processes for s in (p.gpu_before, p.gpu_after) if s is not None]
    seen = {other.pid: other.bytes for state in states for other in state.others or []}
    if not seen:
        return ""
    listed = ", ".join(
        f"{pid} ({units.gibibytes(size)})" if size is not None else str(pid)
        for pid, size in sorted(seen.items())
    )
    return f"other processes used the GPU: {listed}. Times beside them are not this machine's best."


def _clocks(record: Record) -> str:
    clocks = {name(cell): clock for cell in record.cells if (clock := _clock(cell)) is not None}
    if not clocks:
        return ""
    slow, fast = min(clocks, key=lambda c: clocks[c]), max(clocks, key=lambda c: clocks[c])
    spread = 1 - clocks[slow] / clocks[fast]
    if spread <= CLOCK_SPREAD:
        return ""
    return (
        f"the SM clock ran {units.percent(spread)} lower in {slow} than in {fast}: their times are "
        "not of one machine. Lock the clocks (nvidia-smi --lock-gpu-clocks)."
    )


def _clock(cell: Cell) -> float | None:
    """Median SM clock of the cell's samples, Hz."""
    known = [s.telemetry.sm_clock_hz for s in cell.samples if s.telemetry and s.telemetry.readings]
    values = [clock for clock in known if clock is not None]
    return median(values) if values else None


def _outcomes(record: Record) -> str:
    ended = [p for p in record.processes if p.outcome]
    if not ended:
        return ""
    listed = ", ".join(dict.fromkeys(_outcome(record, process) for process in ended))
    return f"processes that did not end well: {listed}."


def _loads(record: Record) -> str:
    """More to run at the end than cores and this run have: something else came in between."""
    cores = record.environment.cores
    seen = [process.load_after for process in record.processes if process.load_after is not None]
    if not cores or not seen or max(seen) <= cores + 1:
        return ""
    return (
        f"the load rose to {max(seen):.1f} on {cores} cores while it was measured: something else "
        "took part of the time."
    )


def _outcome(record: Record, process: Process) -> str:
    subject = f"PID {process.pid}" if process.cell is None else name(record.cells[process.cell])
    return f"{subject}: {process.outcome}"


def _precision(record: Record, listed: list[Row]) -> str:
    measured = [row for row in listed if not row.cell.error]
    missed = {name(row.cell): row.precision for row in measured if not row.reached}
    if not missed:
        return ""
    if all(width is None for width in missed.values()):
        unit = "processes" if record.spec.stopping.isolate else "rounds"
        return (
            f"{len(missed)} of {len(measured)} rows have no interval, for which {FEWEST} {unit} "
            "are needed: what they show may be an accident."
        )
    widest = max(missed, key=lambda cell: missed[cell] or math.inf)
    target = f"{record.spec.stopping.target_ci * 100:g} %"
    return (
        f"{len(missed)} of {len(measured)} rows missed the target of ±{target}, most of all "
        f"{widest} ({_width(missed[widest])}): more rounds or a quieter machine narrow them."
    )


def _floors(record: Record) -> str:
    """A time below the least that the hardware allows: the hardware is better than it was told."""
    beaten = [
        row for row in phase_rows(record) if row.over_floor is not None and row.over_floor < 1
    ]
    if not beaten:
        return ""
    worst = min(beaten, key=lambda row: row.over_floor or 1.0)
    return (
        f"{len(beaten)} phases were faster than their floor, most of all {worst.phase} of "
        f"{name(worst.cell)} ({units.percent(worst.over_floor, 0)} of it): the floors are too "
        "high; run `tpprof calibrate` on a quiet machine."
    )


def _flops(record: Record) -> list[str]:
    """Formulas and torch's count held against each other, to the unit and in both directions, and
    what torch cannot count."""
    checked = [cell for cell in record.cells if cell.cost and cell.decision_flops is not None]
    lines = [line for cell in checked for line in _differences(cell)]
    uncounted: dict[str, list[str]] = {}
    for cell in checked:
        for operator in cell.uncounted_operators:
            uncounted.setdefault(operator, []).append(_cut(name(cell)))
    if uncounted:
        listed = "; ".join(f"{one} in {', '.join(cells)}" for one, cells in uncounted.items())
        lines.append(
            f"torch counts no FLOPs of {listed}: what they compute shows in the clock alone, or is "
            "declared and not checked."
        )
    return lines


def _differences(cell: Cell) -> Iterator[str]:
    """Where formulas and torch's count differ: in the method's decisions, and in all else."""
    charged = sum(item.flops for item in cell.cost)
    counted = sum(cell.counted_flops.values()) - sum(cell.table_flops.values())
    declared = sum(item.flops for item in cell.cost if item.part == "select")
    decided = cell.decision_flops or 0
    whole = max(charged, counted)
    if declared != decided:
        meaning = _meaning(cell, decided > declared, "its plan declares")
        yield (
            f"{_cut(name(cell))}: its decisions are declared as {declared:,} FLOPs, and torch "
            f"counted {decided:,}{_factor(declared, decided)}, a difference of "
            f"{_share(decided - declared, whole)} of the request: {meaning}."
        )
    more = (counted - decided) - (charged - declared)
    if more:
        higher = "torch counted" if more > 0 else "the formulas hold"
        lower = "the formulas hold" if more > 0 else "torch counted"
        yield (
            f"{_cut(name(cell))}: outside its decisions {higher} {abs(more):,} FLOPs more than "
            f"{lower}, {_share(more, whole)} of the request: "
            f"{_meaning(cell, more > 0, 'a formula holds')}."
        )


def _meaning(cell: Cell, torch_is_higher: bool, whose: str) -> str:
    """What a difference says of the table's FLOPs."""
    if torch_is_higher:
        return f"{whose} too little, and so does the table"
    operators = ", ".join(cell.uncounted_operators)
    blind = f"torch does not count {operators}" if operators else "it runs where torch sees nothing"
    return f"{whose} too much, and so does the table, or {blind}"


def _factor(declared: int, decided: int) -> str:
    if not declared or not decided:
        return ""
    return f" ({decided / declared:.4g}x)"


def _share(part: int, whole: int) -> str:
    """A share that is never rounded to nothing."""
    percent = 100 * abs(part) / whole
    return f"{percent:.1f} %" if percent >= 0.1 else f"{percent:.1g} %"


def _host_waits(record: Record) -> str:
    """Decisions for which the host reads a value: each empties the queue of a GPU."""
    waiting = []
    for cell in record.cells:
        if cell.host_waits:
            where = ", ".join(f"{line}: {count}" for line, count in cell.host_waits.items())
            waiting.append(
                f"{_cut(name(cell))} {sum(cell.host_waits.values())} times a request ({where})"
            )
    if not waiting:
        return ""
    return (
        f"decisions make the host wait for a value: {'; '.join(waiting)}. Each .item(), .tolist(), "
        "nonzero and the like empties the queue of a GPU, which the clock holds and FLOPs do not."
    )
