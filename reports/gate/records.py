"""Two saved records: counts exactly, time by what each gains over the vanilla beside it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .. import units
from ..analysis.by_round import baseline, latencies, pairs
from ..analysis.intervals import Mean, trimmed
from ..record import files
from ..record.base import RecordError
from ..record.compatibility import other_machine
from ..record.labels import ran
from ..record.schema import Cell, Record
from .baseline import Snapshot
from .counts import compare_counts, strangeness, uncounted
from .evidence import change, holm, quantile, tail
from .journal import HARMLESS
from .rules import ON_CPU, ON_GPU, Rules
from .timing import FEWEST
from .tolerant_record import reading
from .verdicts import Gate, Judged, Verdict, accepted, nothing

ALPHA = 0.01
SPEEDUP, LATENCY = TIMED = ("time over vanilla", "latency")


def compare_record_files(
    base: Path,
    head: Path,
    rules: Rules,
    *,
    accept_counts: bool = False,
    accept_unjudged: bool = False,
) -> Gate:
    """Judge two saved records; without a verdict where one of them cannot be read, or both are of
    one run. accept_counts: counts that changed are meant. accept_unjudged: what cannot be judged
    does not stand against a pass."""
    subject = f"{base} -> {head}"
    try:
        left, right = files.load(base), files.load(head)
    except RecordError as error:
        return nothing("stored", subject, str(error))
    if _of_one_run(left, right):
        why = "nothing is compared: base and head are of one run, or hold samples of it"
        return nothing("stored", subject, why)
    gate = compare_records(left, right, rules, subject)
    gate.accept_unjudged = accept_unjudged
    if accept_counts:
        timed = [row for row in gate.rows if row.metric in TIMED]
        counts = [row for row in gate.rows if row.metric not in TIMED]
        gate.rows = accepted(counts, counts_only=True) + timed
    return gate


def _of_one_run(base: Record, head: Record) -> bool:
    """Whether the two are of one run, whole or in part: most times of a cell are the very same,
    which those of two runs never are."""
    return any(_share(ours, theirs) for ours in base.cells for theirs in head.cells)


def _share(base: Cell, head: Cell) -> bool:
    left, right = ({sample.latency for sample in cell.samples} for cell in (base, head))
    return 2 * len(left & right) > min(len(left), len(right))


def compare_records(base: Record, head: Record, rules: Rules, subject: str) -> Gate:
    """Judge `head` against `base`.

    A speed-up over vanilla is measured within a record, round by round, and carries over between
    machines. Absolute times are shown where both machines have the same name, and at most leave it
    open whether something became slower: the same name is no proof of the same machine.
    """
    left, right = reading(base), reading(head)
    before, after = Snapshot.of(left), Snapshot.of(right)
    rows = compare_counts(before, after, rules.memory)
    gate = Gate("stored", subject, rows, _notes(base, head, uncounted(after)))
    if strangeness(before, after):
        return gate
    doubt = _doubt("base", base) or _doubt("head", head)
    if doubt:
        gate.rows.append(_unjudged("all cells", "times", doubt))
        return gate
    on_gpu = before.device == "cuda"
    tolerance = {**(ON_GPU if on_gpu else ON_CPU), **rules.tolerance}["latency"]
    titles = [cell.title for cell in left.cells]
    apart = _apart(base, head)
    tests = _tests(base, head, titles, absolute=not apart)
    known = {key: value for key, value in tests.items() if value is not None}
    p_values = {key: tail(difference) for key, difference in known.items()}
    adjusted = holm(p_values, len(tests))
    alone = not any(metric == SPEEDUP for _, metric in tests)
    for key, difference in tests.items():
        if difference is None:
            why = f"too few rounds: {FEWEST} on either side at least"
            gate.rows.append(_unjudged(*key, why))
        else:
            title, metric = key
            ours = base.cells[titles.index(title)]
            shown = _shown(metric, base, ours), _shown(metric, head, _theirs(head, ours) or ours)
            row = _row(key, difference, adjusted[key], tolerance, *shown)
            gate.rows.append(_of_two_runs(row, alone=alone) if metric == LATENCY else row)
    if not tests:
        why = "no method beside vanilla, and two machines: no time can be compared"
        gate.rows.append(_unjudged("all cells", "times", why))
    if apart:
        row = _unjudged("all cells", LATENCY, f"what slows vanilla down, too, is not seen: {apart}")
        gate.rows.append(replace(row, verdict=Verdict.NOT_JUDGED))
    return gate


def _unjudged(cell: str, metric: str, why: str) -> Judged:
    return Judged(cell, metric, Verdict.NO_VERDICT, units.NA, units.NA, units.NA, why)


def _doubt(name: str, record: Record) -> str:
    """Why the times of a record cannot be judged; "" if they can."""
    if not record.complete:
        return f"{name} is of a run that did not come to its end"
    for cell in record.cells:
        for seen in (sample.telemetry for sample in cell.samples if sample.telemetry):
            throttled = [reason for reason in seen.throttled if reason not in HARMLESS]
            if throttled:
                return f"{name}: the GPU was throttled ({', '.join(throttled)})"
            if seen.others:
                return f"{name}: other processes used the GPU ({', '.join(map(str, seen.others))})"
    return ""


def _apart(base: Record, head: Record) -> str:
    """What keeps absolute times of the two from being compared; "" if nothing does."""
    why = other_machine(base, head)
    if why:
        return f"another machine: {why[0]}"
    for name in ("isolate", "samples"):
        values = getattr(base.spec.stopping, name), getattr(head.spec.stopping, name)
        if values[0] != values[1]:
            return f"{name} is {values[1]}, was {values[0]}"
    return ""


def _tests(
    base: Record, head: Record, titles: Sequence[str], *, absolute: bool
) -> dict[tuple[str, str], Mean | None]:
    """By cell and metric: by how much the logarithm grew, None from too few rounds."""
    found: dict[tuple[str, str], Mean | None] = {}
    for cell, title in zip(base.cells, titles, strict=True):
        other = _theirs(head, cell)
        if other is None or cell.error or other.fallback != cell.fallback:
            continue  # which the exact rows say
        if cell is not baseline(base, cell):
            lost = _lost(base, cell), _lost(head, other)
            found[title, SPEEDUP] = _difference(*lost)
        if absolute:
            times = _logs(cell), _logs(other)
            found[title, LATENCY] = _difference(*times)
    return found


def _theirs(head: Record, cell: Cell) -> Cell | None:
    """The same cell of the head, if it ran."""
    alike = (other for other in head.cells if not other.error and _key(other) == _key(cell))
    return next(alike, None)


def _key(cell: Cell) -> tuple[str, str, str]:
    return cell.method, cell.attention, ran(cell)


def _lost(record: Record, cell: Cell) -> list[float]:
    """Log of the cell's time over vanilla's, round by round."""
    vanilla = baseline(record, cell)
    if vanilla is None:
        return []
    return [math.log(own / full) for full, own in pairs(vanilla, cell)]


def _logs(cell: Cell) -> list[float]:
    return [math.log(seconds) for seconds in latencies(cell).values()]


def _difference(before: Sequence[float], after: Sequence[float]) -> Mean | None:
    """After minus before, both trimmed means, with Welch's degrees of freedom, rounded down."""
    if min(len(before), len(after)) < FEWEST:
        return None
    left, right = trimmed(before), trimmed(after)
    parts = left.error**2, right.error**2
    error = math.sqrt(sum(parts))
    freedom = min(left.freedom, right.freedom)
    if error:
        spread = parts[0] ** 2 / left.freedom + parts[1] ** 2 / right.freedom
        freedom = max(1, int(error**4 / spread))
    return Mean(right.centre - left.centre, error, freedom)


def _row(
    key: tuple[str, str],
    found: Mean,
    adjusted: float,
    tolerance: float,
    before: str,
    after: str,
) -> Judged:
    limit, allowed, level = math.log1p(tolerance), units.percent(tolerance), f"{1 - ALPHA:.0%}"
    reach = quantile(found.freedom, ALPHA) * found.error
    low, high = found.centre - reach, found.centre + reach
    if adjusted <= ALPHA and found.centre > limit:
        verdict = Verdict.FAIL
        rule = f"slower beyond chance (adjusted p {adjusted:.2g}) and by more than {allowed}"
    elif high < 0 and found.centre < -limit:
        verdict, rule = Verdict.IMPROVED, f"faster by more than {allowed}, by the {level} bound"
    elif high < limit:
        verdict, rule = Verdict.PASS, f"a loss of {allowed} is excluded by the {level} bound"
    else:
        verdict, rule = Verdict.INCONCLUSIVE, f"neither a loss of {allowed} nor its absence"
    why = f"{change(found.centre)} {units.ends(change(low), change(high))}"
    values = {
        "log_ratio": found.centre,
        "low": low,
        "high": high,
        "p_adjusted": adjusted,
        "tolerance": tolerance,
    }
    return Judged(*key, verdict, before, after, why, rule, values)


def _of_two_runs(row: Judged, *, alone: bool) -> Judged:
    """An absolute time of two runs, of which a name does not say whether their machine was one: a
    loss is a question and no failure, and a gain is no improvement. alone: nothing else is
    timed."""
    if row.verdict is Verdict.FAIL or alone:
        verdict = Verdict.INCONCLUSIVE
    elif row.verdict is Verdict.INCONCLUSIVE:
        return row
    else:
        verdict = Verdict.PASS
    rule = f"{row.rule}; but two runs may be of two machines of one name: `tpprof gate ab` tells"
    return replace(row, verdict=verdict, rule=rule)


def _shown(metric: str, record: Record, cell: Cell) -> str:
    if metric == LATENCY:
        return f"{units.milliseconds(statistics.median(map(math.exp, _logs(cell))))} ms"
    gain = math.exp(-trimmed(_lost(record, cell)).centre)
    return f"{units.times(gain)} faster"


def _notes(base: Record, head: Record, uncounted: str) -> list[str]:
    """What a reader must know of these two."""
    notes, apart = [uncounted] if uncounted else [], _apart(base, head)
    if apart:
        notes.append(f"absolute times are not judged: {apart}")
    for name, record in (("base", base), ("head", head)):
        if not record.spec.stopping.isolate:
            notes.append(
                f"{name} is of one process: how processes differ among themselves is not in its "
                "intervals (tpprof compare --isolate)"
            )
    return notes
