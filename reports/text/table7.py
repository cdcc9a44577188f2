"""Table 7 of a run: its columns, once, for people and programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from .. import units
from ..analysis import caveats
from ..analysis.accuracy.scores import of_record
from ..analysis.headline import headline_of
from ..analysis.summary import Row, rows
from ..record.schema import Cell, Memory, Record
from .accuracy import score_columns
from .cells import (
    attention_column,
    ends,
    method_column,
    over_text,
    runtime_column,
    time_column,
)
from .table import Column, Table, for_programs

LATENCY = (
    "Host wall-clock of a whole request, from a decoded picture in memory to the last token, the "
    "wait for the device included: the median over rounds."
)
MEASURED = (
    "Latency of vanilla over that of the method, T0 / T, in pairs within a round, under the same "
    "runtime: 20 % trimmed mean of the logarithms, studentised 95 % interval (Yuen 1974)."
)
CLAIMED = (
    "What papers print: FLOPs of vanilla's decoder layers in prefill over those of the method, as "
    "if the whole request shrank with them."
)
PROMISED = (
    "Vanilla's latency over what FLOPs promise of it, phase by phase: each phase, and each decoder "
    "layer in prefill, takes the share of its own FLOPs of its own time in vanilla; what does no "
    "matrix products takes as long as before."
)
BY_FLOORS = (
    "The same by the least time that the device allows for each phase and layer, in the place of "
    "its FLOPs."
)
OVER = (
    "Latency over the time that FLOPs promise, phase by phase, in pairs within a round; n/a where "
    "the promise lies within the noise of the measured speed-up."
)
TOUCHED = (
    "The share of vanilla's latency in the phases, and decoder layers of prefill, in which the "
    "method has less work, by formula: the rest stays as it is (Amdahl)."
)
NEW_LENGTH = (
    "What the first request at a length that never ran before takes longer than those that follow "
    "at the same one: cuDNN's plans for new pairs of lengths, kernels not loaded yet, memory, a "
    "graph that is captured anew; it scatters from length to length. Warm-ups hide it; who prunes "
    "to lengths that depend on the picture pays it for each new one. noise: it took no longer than "
    "one of the three that followed."
)
OF_PROMISED = "Measured speed-up over the promised one: the inverse of the times the promised time."
KV = "Bytes of the real key and value tensors after prefill, text included; MB of 10^6."


def table7(
    record: Record, listed: list[Row] | None = None, warnings: Sequence[str] | None = None
) -> Table[Row]:
    """One row per cell, measured and derived. listed, warnings: of the record, where they are known
    already."""
    found = rows(record) if listed is None else listed
    return Table(
        columns(record),
        found,
        caveats.warnings(record, found) if warnings is None else warnings,
        closing=headline_of(found).headline,
        failure=lambda row: f"failed: {row.cell.error}" if row.cell.error else "",
        frame=record.frame,
    )


def columns(record: Record) -> list[Column[Row]]:
    """The columns of Table 7."""
    return [
        *_what(record),
        *_latencies(),
        *_stages(),
        *_first_requests(record),
        _measured(record),
        *_promises(),
        *_answers(record),
        *_costs(record),
        for_programs("parts_over_latency", lambda r: r.parts_sum.value if r.parts_sum else None),
        for_programs("error", lambda r: r.cell.error or None),
    ]


def _what(record: Record) -> list[Column[Row]]:
    return [
        method_column(_cell),
        attention_column(_cell),
        replace(runtime_column(_cell), shown=_several_runtimes(record)),
        Column(
            "visual tokens\nlast / mean",
            lambda r: f"{r.visual_last} / {r.visual_mean:.0f}" if r.visual_mean else units.NA,
            {"visual_last": lambda r: r.visual_last, "visual_mean": lambda r: r.visual_mean},
            "Visual tokens entering a decoder layer: at the last one, and the mean over all.",
        ),
    ]


def _latencies() -> list[Column[Row]]:
    latency = "latency\nms"
    return [
        Column(
            latency,
            _latency,
            ends("latency_seconds", lambda r: r.latency),
            LATENCY,
            term="latency ms",
        ),
        Column(
            "p95\nms",
            lambda r: units.milliseconds(r.p95),
            {"latency_p95_seconds": lambda r: r.p95},
            "95 % of requests took at most so long (nearest rank); from 100 samples on.",
            optional=True,
            under="visual tokens\nlast / mean",
        ),
        Column(
            "p99\nms",
            lambda r: units.milliseconds(r.p99),
            {"latency_p99_seconds": lambda r: r.p99},
            "99 % of requests took at most so long (nearest rank); from 662 samples on.",
            optional=True,
            under=latency,
        ),
    ]


def _stages() -> list[Column[Row]]:
    return [
        time_column(
            "prefill\nms",
            "prefill_seconds",
            lambda r: r.prefill,
            "The decoder layers over the whole prompt, scoring and selection included.",
        ),
        time_column(
            "decode\nms/token",
            "decode_seconds",
            lambda r: r.decode,
            "All tokens after the first, per token.",
            under="prefill\nms",
        ),
    ]


def _first_requests(record: Record) -> list[Column[Row]]:
    """What a request takes that is the first at all, or the first of its length."""
    return [
        Column(
            "first call\nms",
            lambda r: units.milliseconds(_first(r)),
            {"first_call_seconds": _first},
            "The first request under the runtime: compiling and capturing are in it, but not what "
            "two eager prefills before it, which hold the method to its plan, have set up already.",
            shown=_several_runtimes(record),
            under="prefill\nms",
        ),
        Column(
            "new length\nms",
            _new_length,
            {"new_length_seconds": _new_length_seconds},
            NEW_LENGTH,
            optional=True,
            under="prefill\nms",
        ),
    ]


def _measured(record: Record) -> Column[Row]:
    return Column(
        f"speed-up measured\n(target ±{_target(record)})",
        _speedup,
        {
            **ends("speedup", lambda r: r.speedup),
            "precision": lambda r: r.precision,
            "reached": lambda r: r.reached,
        },
        f"{MEASURED} missed: half its width is more than the target.",
        term="speed-up measured",
        under="latency\nms",
    )


def _promises() -> list[Column[Row]]:
    return [
        Column(
            "speed-up\npromised",
            lambda r: units.times(r.promised),
            {"promised": lambda r: r.promised},
            PROMISED,
        ),
        Column(
            "speed-up\nclaimed",
            lambda r: units.times(r.claimed),
            {"claimed": lambda r: r.claimed},
            CLAIMED,
            wide=True,
        ),
        Column(
            "speed-up\nby floors",
            lambda r: units.times(r.by_floors),
            {"by_floors": lambda r: r.by_floors},
            BY_FLOORS,
            wide=True,
            optional=True,
        ),
        Column(
            "times the\npromised time",
            lambda r: over_text(r.over_promise),
            ends("over_promise", lambda r: r.over_promise),
            OVER,
            under="speed-up\npromised",
        ),
        Column(
            "time it\ncan touch",
            lambda r: units.percent(r.touched.value if r.touched else None),
            ends("touched_share", lambda r: r.touched),
            TOUCHED,
            wide=True,
        ),
        Column(
            "of the promised\nspeed-up",
            lambda r: units.percent(1 / r.over_promise.value if r.over_promise else None, 0),
            {"of_promised": lambda r: 1 / r.over_promise.value if r.over_promise else None},
            OF_PROMISED,
            wide=True,
        ),
    ]


def _answers(record: Record) -> list[Column[Row]]:
    """What its answers are worth, where they were asked for."""
    if record.accuracy is None:
        return []
    known = of_record(record)
    return score_columns(lambda row: known.get(row.cell.method), record.spec.accuracy.rule)


def _costs(record: Record) -> list[Column[Row]]:
    on_gpu = any(cell.memory.allocator is not None for cell in record.cells)
    return [
        Column(
            "FLOPs",
            lambda r: units.percent(r.flops_share),
            {"flops": lambda r: r.flops, "flops_share": lambda r: r.flops_share},
            "Matrix products of the whole request, vision tower and head included: 1 MAC = 2 "
            "FLOPs, dense attention, all tokens that enter a layer. As a share of vanilla's.",
        ),
        Column(
            "KV MB",
            lambda r: units.megabytes(r.kv_bytes),
            {"kv_bytes": lambda r: r.kv_bytes},
            KV,
            under="visual tokens\nlast / mean",
        ),
        Column(
            "peak memory\n" + ("(allocator)" if on_gpu else "(process)"),
            lambda r: units.gibibytes(r.peak_bytes),
            {"peak_bytes": lambda r: r.peak_bytes},
            "On a GPU the peak of torch's allocator during one request; on a CPU the resident "
            "memory of the process, weights included.",
            term="peak memory",
            under="FLOPs",
        ),
        Column(
            "memory by\ndevice",
            lambda r: _by_device(r.cell.memory),
            {"peak_bytes_by_device": lambda r: [one.allocator for one in r.cell.memory.devices]},
            "The peak of torch's allocator on each device of a pipeline, in their turn.",
            shown=bool(record.model.pipeline),
            under="FLOPs",
        ),
        Column(
            "energy\nJ/request",
            lambda r: units.joules(r.cell.energy.joules),
            {"joules": lambda r: r.cell.energy.joules},
            "Joules of the whole GPU per request, from its counter over two seconds of requests.",
            optional=True,
            under="FLOPs",
        ),
    ]


def _by_device(memory: Memory) -> str:
    return " + ".join(units.gibibytes(one.allocator) for one in memory.devices) or units.NA


def _cell(row: Row) -> Cell:
    return row.cell


def _several_runtimes(record: Record) -> bool:
    return any(cell.runtime != "eager" for cell in record.cells)


def _latency(row: Row) -> str:
    if row.latency is None:
        return units.NA
    median = units.milliseconds(row.latency.value)
    if row.latency.precision is None:
        return f"{median} (too few samples)"
    return f"{median} ±{units.percent(row.latency.precision)}"


def _first(row: Row) -> float | None:
    """Seconds of the first request ever: compiling, capturing and loading are in it."""
    return row.cell.warmups[0] if row.cell.warmups else None


def _new_length_seconds(row: Row) -> float | None:
    """Seconds of the first request at a new length beyond the median of those behind it."""
    found = row.cell.new_length
    if found is None:
        return None
    first, *following = found.seconds
    return first - median(following)


def _new_length(row: Row) -> str:
    found, more = row.cell.new_length, _new_length_seconds(row)
    if found is not None and found.seconds[0] <= max(found.seconds[1:]):
        return "noise"
    return units.milliseconds(more)


def _speedup(row: Row) -> str:
    gain = row.speedup
    if gain is not None and row.cell.name == "vanilla" and gain.low == gain.high:
        return units.times(gain.value)
    if gain is None or gain.low is None or gain.high is None or row.reached:
        return over_text(gain)
    return f"{over_text(gain)} missed"


def _target(record: Record) -> str:
    return f"{record.spec.stopping.target_ci * 100:g} %"
