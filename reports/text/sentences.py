"""What the table says, in a few sentences made from its data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from .. import units
from ..analysis.accuracy.scores import of_record
from ..analysis.accuracy.told import distinct
from ..analysis.phases import host_bound
from ..analysis.promise import Bound, bound_of
from ..analysis.summary import Row, rows
from ..record.labels import name, ran
from ..record.schema import Cell, ModelInfo, Record, RequestInfo
from .cells import over_text

ATTENDING = ("vision", "prefill", "decode")
"""Phases that attend."""
NAMED = 6
"""Methods that are named in a line, at most."""


def sentences(record: Record, listed: list[Row] | None = None) -> list[str]:
    """Two or three sentences on how promised and measured speed-up differ, and notes. listed: the
    rows of the record, where they are known already."""
    table = rows(record) if listed is None else listed
    measured = [row for row in table if row.speedup and row.cell.name != "vanilla"]
    found = [
        _contrast(measured),
        _ranking(measured),
        *_touched(table),
        host_bound(record),
        _answers(record),
    ]
    notes = [f"{row.cell.method}: {row.cell.note}." for row in table if row.cell.note]
    notes += [
        f"{name(row.cell)} ran eager: {row.cell.fallback.rstrip('.')}."
        for row in table
        if row.cell.fallback
    ]
    notes += [
        f"{name(row.cell)} ran vision and prefill eager: {row.cell.eager_prefill.rstrip('.')}."
        for row in table
        if row.cell.eager_prefill and not row.cell.fallback
    ]
    return [sentence for sentence in found if sentence] + list(dict.fromkeys(notes))


def _touched(table: Sequence[Row]) -> list[str]:
    """Which share of the time pruning can touch, a sentence for each runtime."""
    found: dict[str, dict[str, float]] = {}
    for row in table:
        if row.touched is not None:
            found.setdefault(ran(row.cell), {})[row.cell.method] = row.touched.value
    of = "vanilla's time"
    return [
        touched_text(shares, f"{of} under {runtime}" if len(found) > 1 else of)
        for runtime, shares in found.items()
    ]


def touched_text(shares: Mapping[str, float], of: str) -> str:
    """Of what pruning can touch so much: the method that can touch least, and the one that can
    touch most. shares: by method."""
    least, most = (choose(shares, key=lambda name: shares[name]) for choose in (min, max))
    ends = [least] if shares[least] == shares[most] else [least, most]
    told = [f"{units.percent(shares[name])} ({name})" for name in ends]
    return f"Of {of} pruning can touch {' to '.join(told)}; the rest stays as it is (Amdahl)."


def _answers(record: Record) -> str:
    """What pruning does to the answers, and of what model."""
    if record.accuracy is None or not (told := distinct(list(of_record(record).values()))):
        return ""
    asked = len(record.accuracy.questions)
    return f"{told} {asked} questions, {record.accuracy.source}: what methods do to this model."


def header(record: Record) -> list[str]:
    """What was run, on what."""
    model, request, environment = record.model, record.request, record.environment
    state = "" if record.complete else " (interrupted: what was measured so far)"
    if model.parameters is None:
        return [
            f"{model.name} ({model.reason})",
            f"{environment.device or 'unknown device'}; {request.new_tokens} new tokens{state}",
        ]
    tokens = f"{lengths(request)} tokens"
    ranks = record.spec.model.tensor_parallel
    spread = (
        f"over {ranks} ranks: a request takes as long as on the slowest; KV caches are those of "
        "all, FLOPs and memory those of the first"
    )
    return [
        f"{model.name} ({model.reason}), {model.source}, "
        f"{model.parameters / 1e6:,.0f} M parameters, {model.dtype}, {model.backend}",
        f"{environment.device or 'unknown device'}; {tokens}, batch {request.batch}, "
        f"{request.new_tokens} new tokens{state}",
        *[spread] * (ranks > 1),
        *_laid_out(model),
    ]


def _laid_out(model: ModelInfo) -> list[str]:
    """Where the layers of a pipeline lie."""
    if not model.pipeline:
        return []
    parts = ", ".join(f"{part.device}: {part.layers} layers" for part in model.pipeline)
    return [
        f"a pipeline ({parts}), one device after another: KV caches and memory are those of all, "
        "telemetry that of the first, energy of none"
    ]


def lengths(request: RequestInfo) -> str:
    """Text before, visual tokens, text between pictures, text after."""
    shown = [str(request.before), f"{request.visual} visual"]
    if request.between:
        shown.append(f"{request.between} between")
    several = f" ({request.pictures} pictures)" if request.pictures > 1 else ""
    several = f" ({request.frames} frames)" if request.frames else several
    return f"{' + '.join(shown)} + {request.after}{several}"


def bounds(record: Record) -> list[str]:
    """What no pruning in the decoder can pass, a line for each runtime that vanilla ran under."""
    found: dict[str, Bound] = {}
    for cell in record.cells:
        ours = cell.name == "vanilla" and cell.callable is None
        bound = bound_of(record, cell) if ours else None
        if bound is not None:
            found.setdefault(ran(cell), bound)
    return [_bound(bound, runtime if len(found) > 1 else "") for runtime, bound in found.items()]


def _bound(bound: Bound, runtime: str) -> str:
    largest = sorted(bound.outside, key=lambda name: -bound.outside[name])[:2]
    spent = " and ".join(
        f"{name} ({units.milliseconds(bound.outside[name])} ms)" for name in largest
    )
    least = units.milliseconds(bound.read_seconds)
    read = f"weights and text take at least {least} ms"
    if bound.read_seconds is None:
        read = "what weights and text take is not known (`tpprof calibrate`)"
    under = f" under {runtime}" if runtime else ""
    beyond = f" ({_listed(bound.beyond)}: not there alone)" if bound.beyond else ""
    return (
        f"No pruning in the decoder{beyond} can pass {over_text(bound.speedup)} here{under}: "
        f"outside it lie {spent}; {read}."
    )


def _listed(words: Sequence[str]) -> str:
    """As a sentence has it: a, b and c."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def footnotes(record: Record, listed: list[Row] | None = None) -> list[str]:
    """What the columns mean, and whether the parts of a request account for its latency."""
    table = rows(record) if listed is None else listed
    sums = [row.parts_sum.value for row in table if row.parts_sum]
    samples = {row.latency.samples for row in table if row.latency}
    lines = [
        "latency: preprocess to last token, ±: half its 95 % interval. promised: each phase and "
        "layer takes the share of its own FLOPs of its own time. FLOPs: whole request, 1 MAC = 2 "
        "FLOPs, dense attention."
    ]
    if any(row.cell.runtime != "eager" for row in table):
        lines[0] += " speed-ups: against vanilla under the same runtime."
    if sums:
        off = max(abs(1 - share) for share in sums)
        verdict = "within 2 %" if off <= 0.02 else "NOT within 2 %: distrust the parts"
        unit = "process" if record.spec.stopping.isolate else "round"
        lines.append(
            f"{_count(min(samples), unit)} a row; the parts of a request sum to its latency to "
            f"{units.percent(off, 2)} ({verdict})."
        )
    lines += _departures(record)
    if table and table[0].cell.kernels:
        counts = Counter(kernel.removeprefix("aten::") for kernel in table[0].cell.kernels)
        used = ", ".join(f"{kernel} in {number}" for kernel, number in counts.items())
        layers = len(table[0].cell.kernels)
        lines.append(f"attention kernel of {name(table[0].cell)}: {used} of {layers} layers.")
    lines += _kernels([row.cell for row in table if row.cell.name == "vanilla"])
    lines += [origin(row.cell) for row in table if row.cell.callable and row.cell.callable.python]
    missing = {f"{what} ({why})": None for row in table for what, why in row.cell.missing.items()}
    if missing:
        lines.append(f"not measured: {', '.join(missing)}.")
    return lines


def origin(cell: Cell) -> str:
    """What ran in a callable's cell, and where."""
    info = cell.callable
    assert info is not None
    packages = [f"{name} {version}" for name, version in info.packages.items()]
    place = ", ".join([f"Python {info.python}", *packages])
    model = f", {info.model_class}" if info.model_class else ""
    process = "a process of its own" if info.process == "own" else "this process"
    return f"{cell.method}: {info.reference}{model} in {process}, {place}."


def kernels_by_phase(cell: Cell) -> str:
    """Which kinds of attention kernel the phases of a cell use; one word where all use the same,
    "" where none is known."""
    kinds = cell.phase_kernels
    listed = {phase: " and ".join(found) for phase, found in kinds.items()}
    if len(set(listed.values())) == 1:
        return next(iter(listed.values()))
    return ", ".join(f"{phase} {listed[phase]}" for phase in ATTENDING if phase in listed)


def _kernels(cells: list[Cell]) -> list[str]:
    """A line for each vanilla whose phases use different kernels, or others than the first one."""
    differ = [
        cell
        for cell in cells
        if "," in kernels_by_phase(cell) or cell.phase_kernels != cells[0].phase_kernels
    ]
    return [
        f"kinds of attention kernel in {name(cell)}: {kernels_by_phase(cell)}."
        for cell in differ
        if cell.phase_kernels
    ]


def _departures(record: Record) -> list[str]:
    """Where it stands what methods do otherwise than their papers, if any is measured."""
    measured = [cell.name for cell in record.cells if cell.callable is None]
    ours = [method for method in measured if method != "vanilla"]
    named = list(dict.fromkeys(part for method in ours for part in method.split("+")))
    if not named:
        return []
    known = len(named) <= NAMED and not record.spec.cells.plugin  # which may have brought them
    asked = f" {' '.join(named)}" if known else ""
    return [f"departures of methods from papers and released code: `tpprof methods{asked}`."]


def _count(number: int, noun: str) -> str:
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number} {noun if number == 1 else plural}"


def _contrast(measured: list[Row]) -> str:
    """The same method under maps and under rows, where their intervals lie apart."""
    best, gap = "", 1.0
    for row in measured:
        for twin in measured:
            same = (row.cell.method, row.cell.runtime) == (twin.cell.method, twin.cell.runtime)
            if not (same and row.cell.attention == "maps" and twin.cell.attention == "rows"):
                continue
            if not _apart(twin, row):
                continue
            assert row.speedup is not None
            assert twin.speedup is not None
            difference = twin.speedup.value / row.speedup.value
            if difference > gap:
                gap = difference
                best = (
                    f"{row.cell.method}: FLOPs promise {units.times(row.promised)}; with full "
                    "attention maps in the layers it scores it gets "
                    f"{units.times(row.speedup.value)}, reading only the rows it needs "
                    f"{units.times(twin.speedup.value)}."
                )
    return best


def _ranking(measured: list[Row]) -> str:
    """The pair whose order by FLOPs is most wrong about their order by time.

    Only pairs that differ by a point of FLOPs or more, and whose latency intervals lie apart.
    """
    best, wrong = "", 1.0
    for less in measured:
        for more in measured:
            if ran(less.cell) != ran(more.cell):
                continue
            if not (less.flops_share and more.flops_share and less.latency and more.latency):
                continue
            if less.flops_share > more.flops_share - 0.01 or not _apart(more, less):
                continue
            slower = less.latency.value / more.latency.value
            if slower > wrong:
                wrong = slower
                lighter, heavier = name(less.cell), name(more.cell)
                best = (
                    f"{lighter} needs {units.percent(less.flops_share)} of vanilla's FLOPs and "
                    f"{heavier} {units.percent(more.flops_share)}, yet {lighter} takes "
                    f"{units.times(slower)} the time: FLOPs do not rank these methods."
                )
    return best


def _apart(fast: Row, slow: Row) -> bool:
    """Whether the latency interval of `fast` ends before that of `slow` begins."""
    if not (fast.latency and slow.latency) or fast.latency.high is None or slow.latency.low is None:
        return False
    return fast.latency.high < slow.latency.low
