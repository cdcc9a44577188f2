"""The rule of the exact gate: a count that grew fails, one that changed is shown with its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from .. import units
from .baseline import Counts, Snapshot
from .rules import MEMORY
from .verdicts import Judged, Verdict

SAME = ("architecture", "model", "dtype", "backend", "device")
COUNTED, HOST, VANILLA = "FLOPs, counted", "host memory", "vanilla"
LISTED = 4  # changed places that a row names
HOST_SLACK, HOST_SHARE = 64 * 2**20, 0.1
"""What resident memory may grow by over vanilla's in the same process: the larger of the two."""
PROCESS_SLACK, PROCESS_SHARE = 256 * 2**20, 0.25
"""And that of vanilla, which holds whatever was imported: machines and versions differ."""

PROFILED = ("operators", "launches", "syncs")


def compare_counts(
    before: Snapshot, after: Snapshot, memory: float = MEMORY, *, complete: bool = False
) -> list[Judged]:
    """A row for each cell and metric. What was not counted on the same thing is not judged.

    complete: `before` should hold every cell, as a baseline does; one that it lacks is no pass.
    """
    reason = strangeness(before, after) or _unlisted(before, after)
    if reason:
        row = Judged("all cells", "all", Verdict.NO_VERDICT, units.NA, units.NA, units.NA, reason)
        return [row]
    rows = []
    if before.parameter_bytes or after.parameter_bytes:  # of callables alone there are none
        known = before.parameter_bytes, after.parameter_bytes
        rows.append(_single("model", "parameter bytes", *known))
    found = _Comparison(before, after, memory, _other_versions(before, after), complete)
    theirs = {counts.cell: counts for counts in after.cells}
    for counts in before.cells:
        rows += found.cell(counts, theirs.pop(counts.cell, None))
    for cell in theirs:
        if complete:
            reason = "counted here, and not in the baseline: make that anew (--update)"
            values = "missing", "there", units.NA
            rows.append(Judged(cell, "all", Verdict.NO_VERDICT, *values, reason))
        else:
            rows.append(_unjudged(cell, "all", "a new cell: there is nothing to compare it with"))
    return rows


def strangeness(before: Snapshot, after: Snapshot) -> str:
    """Why the two were not counted on the same thing; "" if they were."""
    pairs = [(name, getattr(before, name), getattr(after, name)) for name in SAME]
    for prefix, left, right in (
        ("workload", before.workload, after.workload),
        ("request", before.request, after.request),
    ):
        for key in {**left, **right}:
            if (key in left and key in right) or left.get(key) or right.get(key):
                pairs.append((f"{prefix} {key}", left.get(key), right.get(key)))
    differs = [f"{name} is {right}, was {left}" for name, left, right in pairs if left != right]
    return f"not the same thing: {'; '.join(differs)}" if differs else ""


def _unlisted(before: Snapshot, after: Snapshot) -> str:
    """Why the cells cannot be told apart, or there are none; "" if all is well."""
    for name, snapshot in (("before", before), ("after", after)):
        cells = [counts.cell for counts in snapshot.cells]
        if not cells:
            return f"nothing was compared: no cell {name}"
        if twice := sorted({cell for cell in cells if cells.count(cell) > 1}):
            return f"listed twice {name}: {_listed(twice)}"
    return ""


@dataclass(frozen=True)
class _Comparison:
    """What the rows of all cells depend on. versions: which packages differ, "" if none."""

    before: Snapshot
    after: Snapshot
    memory: float
    versions: str
    complete: bool

    def cell(self, before: Counts, after: Counts | None) -> list[Judged]:
        cell = before.cell
        if after is None:
            reason = "this cell is missing: renamed, or not measured"
            return [Judged(cell, "all", Verdict.NO_VERDICT, "there", "missing", units.NA, reason)]
        if before.error:
            return [Judged(cell, "all", Verdict.NO_VERDICT, "failed", "?", units.NA, before.error)]
        if after.error:
            reason = f"it fails: {after.error}"
            return [Judged(cell, "all", Verdict.FAIL, "ran", "failed", units.NA, reason)]
        if after.generated_tokens < before.generated_tokens:
            reason = "it gives fewer tokens: what that saves is no gain"
            counts = str(before.generated_tokens), str(after.generated_tokens)
            row = Judged(cell, "generated tokens", Verdict.NO_VERDICT, *counts, units.NA, reason)
            return [row]
        rows = [
            _single(cell, "generated tokens", before.generated_tokens, after.generated_tokens),
            _layers(
                cell,
                "visual tokens, sum of layers",
                before.visual_per_layer,
                after.visual_per_layer,
            ),
            _counts(cell, "FLOPs", before.flops, after.flops),
            self._counted(cell, before.counted_flops, after.counted_flops),
            _layers(cell, "KV bytes, prefill", before.kv_bytes_prefill, after.kv_bytes_prefill),
            _kernels(cell, before.kernels, after.kernels, self.versions),
        ]
        if before.is_callable and after.is_callable:
            rows = self._of_callable(before, after)
        if before.kv_bytes_decode or after.kv_bytes_decode:  # one new token has no decode
            both = before.kv_bytes_decode, after.kv_bytes_decode
            rows.append(_layers(cell, "KV bytes, decode", *both))
        on_gpu = self.before.device == "cuda"
        for metric in PROFILED if on_gpu else PROFILED[:1]:
            known = getattr(before, metric), getattr(after, metric)
            rows.append(_activity(cell, metric, *known, self.versions))
        if on_gpu:
            rows.append(_peak(cell, before.peak_bytes, after.peak_bytes, self.memory))
        else:
            rows.append(self._host(before, after))
        return rows

    def _of_callable(self, before: Counts, after: Counts) -> list[Judged]:
        """The rows of what is known of a callable: what it is made of may not be told apart, and no
        formula knows it."""
        cell = before.cell
        rows = [self._counted(cell, before.counted_flops, after.counted_flops)]
        if before.generated_tokens or after.generated_tokens:
            counts = before.generated_tokens, after.generated_tokens
            rows.append(_single(cell, "generated tokens", *counts))
        for metric, old, new in (
            ("tokens, sum of layers", before.tokens_per_layer, after.tokens_per_layer),
            ("KV bytes, prefill", before.kv_bytes_prefill, after.kv_bytes_prefill),
        ):
            if old or new:
                rows.append(_layers(cell, metric, old or [], new or []))
        if before.kernels or after.kernels:
            rows.append(_kernels(cell, before.kernels, after.kernels, self.versions))
        return rows

    def _counted(
        self, cell: str, before: dict[str, int] | None, after: dict[str, int] | None
    ) -> Judged:
        """FLOPs as torch counts them. Those of products do not depend on its version; but the
        tpprof of one side may not count them."""
        if not before and not after:
            return _unjudged(cell, COUNTED, "counted on neither side")
        if (before is None or after is None) and not self.complete:
            return _unjudged(cell, COUNTED, "the tpprof of one side does not count them")
        return _counts(cell, COUNTED, before or {}, after or {})

    def _host(self, before: Counts, after: Counts) -> Judged:
        """Resident memory on a CPU: that of vanilla as it is, that of others beyond vanilla's."""
        cell, old, new = before.cell, before.resident_bytes, after.resident_bytes
        if not old or not new:
            return _unjudged(cell, HOST, "n/a on one side at least", old, new)
        slack, share, grown, what = PROCESS_SLACK, PROCESS_SHARE, new - old, "of the process"
        vanilla = _vanilla_bytes(self.before), _vanilla_bytes(self.after)
        if cell != VANILLA and all(vanilla) and not before.is_callable:
            slack, share, what = HOST_SLACK, HOST_SHARE, "beyond vanilla"
            grown -= vanilla[1] - vanilla[0]
        allowed = max(slack, int(share * old))
        verdict = Verdict.FAIL if grown > allowed else Verdict.PASS
        more, most = (f"{size / 2**20:+,.0f} MiB" for size in (grown, allowed))
        rule = f"{what} {more}, {most} are allowed"
        texts = units.gibibytes(old), units.gibibytes(new), more
        return Judged(cell, HOST, verdict, *texts, rule, {"before": old, "after": new})


def _vanilla_bytes(snapshot: Snapshot) -> int:
    """Resident bytes of vanilla; 0 where they are not known."""
    found = (counts.resident_bytes for counts in snapshot.cells if counts.cell == VANILLA)
    return next(found, None) or 0


def uncounted(after: Snapshot) -> str:
    """Which metrics the device does not have, as a note; "" if none."""
    if after.device == "cuda":
        return ""
    return f"a {after.device} has no launches and no syncs, and its memory is that of the process"


def _single(cell: str, metric: str, before: int | None, after: int | None) -> Judged:
    if before is None or after is None:
        return _unjudged(cell, metric, "unknown here", before, after)
    return _counts(cell, metric, {"": before}, {"": after})


def _layers(cell: str, metric: str, before: Sequence[int], after: Sequence[int]) -> Judged:
    if len(before) != len(after):
        reason = f"{len(after)} layers, {len(before)} before"
        return Judged(cell, metric, Verdict.NO_VERDICT, units.NA, units.NA, units.NA, reason)
    row = _counts(cell, metric, *({str(n): v for n, v in enumerate(s)} for s in (before, after)))
    places = [(n, b, a) for n, (b, a) in enumerate(zip(before, after, strict=True)) if a != b]
    where = _listed([_layer_run(run) for run in _runs(places)])
    rule = f"{row.rule}: {where}" if places else row.rule
    return Judged(cell, metric, row.verdict, row.before, row.after, row.change, rule, row.values)


def _runs(places: Sequence[tuple[int, int, int]]) -> list[list[tuple[int, int, int]]]:
    """Neighbouring layers with the same change, together."""
    numbered = enumerate(places)
    runs = groupby(numbered, key=lambda found: (found[1][0] - found[0], *found[1][1:]))
    return [[index for _, index in run] for _, run in runs]


def _layer_run(run: Sequence[tuple[int, int, int]]) -> str:
    (first, before, after), last = run[0], run[-1][0]
    where = f"layer {first}" if first == last else f"layers {first} to {last}"
    return f"{where} {before:,} -> {after:,}"


def _counts(cell: str, metric: str, before: Mapping[str, int], after: Mapping[str, int]) -> Judged:
    """A count that is made of parts: an increase of any of them fails."""
    if not before or not after:
        return _lacking(cell, metric)
    parts = [(key, before.get(key, 0), after.get(key, 0)) for key in {**before, **after}]
    changed = [part for part in parts if part[1] != part[2]]
    totals = sum(before.values()), sum(after.values())
    named = _listed([f"{key} {old:,} -> {new:,}" for key, old, new in changed if key])
    if not changed:
        verdict, rule = Verdict.PASS, "equal"
    elif any(new > old for _, old, new in changed):
        verdict, rule = Verdict.FAIL, "an increase fails"
    else:
        verdict, rule = Verdict.IMPROVED, "less, and no increase"
    if named and not all(key.isdigit() for key, _, _ in changed):
        rule += f": {named}"
    change = units.percent(totals[1] / totals[0] - 1) if totals[0] else units.NA
    signed = change if change.startswith(("-", units.NA)) else f"+{change}"
    return Judged(
        cell,
        metric,
        verdict,
        f"{totals[0]:,}",
        f"{totals[1]:,}",
        signed if changed else "none",
        rule,
        {"before": dict(before), "after": dict(after)},
    )


def _activity(
    cell: str,
    metric: str,
    before: Mapping[str, int] | None,
    after: Mapping[str, int] | None,
    versions: str,
) -> Judged:
    """Counts of the profiler: they follow the versions of torch and transformers."""
    if before is None and after is None:
        return _unjudged(cell, metric, "counted on neither side")
    if before is None or after is None:
        return _lacking(cell, metric)
    row = _counts(cell, metric, before, after)
    if not versions:
        return row
    reason = f"{versions}: shown only" + ("" if row.verdict is Verdict.PASS else f" ({row.rule})")
    return Judged(
        cell, metric, Verdict.NOT_JUDGED, row.before, row.after, row.change, reason, row.values
    )


def _kernels(cell: str, before: Sequence[str], after: Sequence[str], versions: str) -> Judged:
    """The attention kernels: where they are others, nothing else compares."""
    left, right = (
        ", ".join(
            dict.fromkeys(name.removeprefix("aten::_scaled_dot_product_") for name in kernels)
        )
        or units.NA
        for kernels in (before, after)
    )
    values = {"before": list(before), "after": list(after)}
    if before == after:
        verdict, rule = Verdict.PASS if before else Verdict.NOT_JUDGED, "equal" if before else "n/a"
    elif versions:
        verdict, rule = Verdict.NOT_JUDGED, f"{versions}: shown only"
    else:
        verdict, rule = Verdict.NO_VERDICT, "another attention kernel: not the same backend"
    return Judged(cell, "attention kernel", verdict, left, right, units.NA, rule, values)


def _peak(cell: str, before: int | None, after: int | None, memory: float) -> Judged:
    if before is None and after is None:
        return _unjudged(cell, "peak memory", "n/a on either side")
    if not before or after is None:
        return _lacking(cell, "peak memory")
    share, allowed = after / before - 1, units.percent(memory)
    if share > memory:
        verdict, rule = Verdict.FAIL, f"more than {allowed} above"
    elif share < -memory:
        verdict, rule = Verdict.IMPROVED, f"more than {allowed} below"
    else:
        verdict, rule = Verdict.PASS, f"within {allowed}"
    texts = units.gibibytes(before), units.gibibytes(after), f"{share:+.2%}"
    return Judged(cell, "peak memory", verdict, *texts, rule, {"before": before, "after": after})


def _lacking(cell: str, metric: str) -> Judged:
    reason = "not counted on one side at least"
    return Judged(cell, metric, Verdict.NO_VERDICT, units.NA, units.NA, units.NA, reason)


def _unjudged(
    cell: str, metric: str, rule: str, before: int | None = None, after: int | None = None
) -> Judged:
    ours, theirs = (units.NA if value is None else f"{value:,}" for value in (before, after))
    return Judged(cell, metric, Verdict.NOT_JUDGED, ours, theirs, units.NA, rule)


def _other_versions(before: Snapshot, after: Snapshot) -> str:
    """Which versions differ, build tags aside; "" if none does."""
    differs = [
        f"{name} {after.packages.get(name)}, was {version}"
        for name, version in before.packages.items()
        if version.partition("+")[0] != (after.packages.get(name) or "").partition("+")[0]
    ]
    return ", ".join(differs)


def _listed(parts: Sequence[str]) -> str:
    more = f" and {len(parts) - LISTED} more" if len(parts) > LISTED else ""
    return ", ".join(parts[:LISTED]) + more
