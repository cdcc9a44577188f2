"""`tpprof flops`: plan tokens, FLOPs, bytes, memory and the least time, without running."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ...reports import units
from ...reports.record.schema import Peaks
from ...reports.record.spec import Cells, ModelSpec, Subject, Workload
from ...reports.sanitize import quoted, say
from ...reports.text.cells import METHOD
from ...reports.text.sentences import touched_text
from ...reports.text.table import Column, Table, for_programs
from .options import Format, FormatOption, Typed, fail, takes
from .output import WideOption, print_table
from .supervised import guarded

if TYPE_CHECKING:
    from ..cost.conventions import Convention
    from ..cost.planning import Planned, Wanted

OMITTED = (
    "device",
    "backend",
    "seed",
    "runtime",
    "equalize",
    "prompt",
    "messages",
    "preprocess",
    "callable",
    "python",
)
USUAL = {"model": "llava-next-7b", "attention": ("rows",)}
WANTED = "Which budget"
PlanDeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="h100, a100-80gb, ...; cpu or cuda as calibrated.",
        rich_help_panel="What runs",
    ),
]
SweepOption = Annotated[
    bool,
    typer.Option("--sweep", help="Each method over many budgets.", rich_help_panel=WANTED),
]
ForSpeedupOption = Annotated[
    str | None,
    typer.Option(help="Find the largest budget for this speed-up (3x).", rich_help_panel=WANTED),
]
ForMemoryOption = Annotated[
    str | None,
    typer.Option(
        help="Find the largest budget whose peak fits (24GiB, 24GB).", rich_help_panel=WANTED
    ),
]
ConventionOption = Annotated[
    str | None,
    typer.Option(
        help="Comma-separated: default, prefill, causal, fastv, sparsevlm, paper-kv.",
        rich_help_panel="What is shown and kept",
    ),
]


@takes(Cells, ModelSpec, Workload, omit=OMITTED, usual=USUAL)
@guarded
def flops(
    typed: Typed,
    device: PlanDeviceOption = None,
    sweep: SweepOption = False,
    for_speedup: ForSpeedupOption = None,
    for_memory: ForMemoryOption = None,
    convention: ConventionOption = None,
    format_: FormatOption = Format.table,
    wide: WideOption = False,
) -> None:
    """Plan tokens, FLOPs, bytes, memory and the least time, without GPU or weights."""
    from ...methods import load_plugins
    from .output import require_format

    require_format(format_, "flops", [Format.long])
    spec = typed.alone(Subject)
    if not spec.cells.methods:
        fail("name a METHOD (fastv:keep=320), as `tpprof methods` lists them")
    for note in load_plugins(spec.cells.plugin):
        say(note)
    from ..cost import planning
    from ..cost.conventions import convention_named
    from ..machine import calibration

    conventions = [convention_named(name) for name in convention.split(",")] if convention else []
    peaks = calibration.named(device) if device is not None else None
    on_cpu = peaks is not None and peaks.threads is not None
    planner = planning.Planner(
        spec.model.name or "",
        spec.workload,
        attention=",".join(spec.cells.attention),
        peaks=peaks,
        conventions=conventions,
        dtype=spec.model.dtype or ("float32" if on_cpu else "bfloat16"),
        tensor_parallel=spec.model.tensor_parallel,
        pipeline=spec.model.pipeline,
    )
    wanted = _wanted(sweep, for_speedup, for_memory)
    planned = planner.table(spec.cells.methods, spec.cells.keep, wanted)
    table = plan_table(planned, peaks, conventions, planner.bound, planner.warnings)
    print_table(table, format_, wide=wide)
    raise typer.Exit(int(not all(row.met for row in planned)))


def _wanted(sweep: bool, speedup: str | None, memory: str | None) -> Wanted | None:
    """What budget is looked for; None for the one given."""
    from ..cost.planning import Wanted

    if sum((sweep, speedup is not None, memory is not None)) > 1:
        fail("--sweep, --for-speedup and --for-memory exclude each other")
    if sweep:
        return Wanted()
    if speedup is not None:
        return Wanted(speedup=_positive("--for-speedup", speedup, {"x": 1.0, "": 1.0}, "3x"))
    if memory is not None:
        scales = {"tib": 2.0**40, "gib": 2.0**30, "mib": 2.0**20, "tb": 1e12, "gb": 1e9, "mb": 1e6}
        return Wanted(memory_bytes=_positive("--for-memory", memory, scales, "24GiB or 24GB"))
    return None


def _positive(option: str, text: str, scales: dict[str, float], example: str) -> float:
    """A number above 0 with one of the suffixes of `scales`."""
    word = text.strip().lower()
    suffix = next((suffix for suffix in scales if word.endswith(suffix)), None)
    number = word.removesuffix(suffix or "")
    plain = suffix is not None and re.fullmatch(r"[0-9.]{1,18}(e[0-9]{1,3})?", number)
    try:
        value = float(number) * scales[suffix] if plain and suffix is not None else 0.0
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        fail(f"{option} {quoted(text)} is not an amount above 0, as {example}")
    return value


def plan_table(
    planned: list[Planned],
    peaks: Peaks | None,
    conventions: list[Convention],
    bound: float | None = None,
    warnings: Sequence[str] = (),
) -> Table[Planned]:
    """One row per method; the first is vanilla. bound, warnings: see Planner."""
    columns = [
        *_work_columns(),
        *_memory_columns(),
        *_floor_columns(on_device=peaks is not None),
        *(_convention_column(c, planned[0]) for c in conventions),
        for_programs("note", lambda r: r.note),
        for_programs("met", lambda r: r.met),
        for_programs("visual_last", lambda r: r.visual_last),
        for_programs("visual_mean", lambda r: r.visual_mean),
        for_programs("counted", lambda r: r.counted),
    ]
    below = notes(planned, peaks, conventions, bound)
    return Table(columns, planned, warnings=warnings, notes=below)


def notes(
    planned: list[Planned],
    peaks: Peaks | None,
    conventions: list[Convention],
    bound: float | None = None,
) -> list[str]:
    """What the figures mean, and what could not be planned."""
    lines = [
        "peak memory: weights, caches and live tensors of the eager engine; kernels' scratch, "
        "fragmentation and the device's own context come on top."
    ]
    if len({row.method.partition(":")[0] for row in planned}) > 2:
        lines.append(
            "budgets differ in meaning from method to method: compare the means over layers."
        )
    if peaks is None:
        lines.append(
            "shares of FLOPs are no speed-ups: --device names a device, for the least time that it "
            "allows. Speed-ups looked for are those of all FLOPs."
        )
    else:
        rough = ""
        if not peaks.launch_seconds:
            rough = "; by datasheet: no launches, all bytes at the memory's speed, caches unknown"
        lines.append(
            f"floor: the least time that {peaks.device} ({peaks.source}{rough}) allows for vision, "
            "prefill and decode with torch's kernels; a real run takes longer, and the speed-up "
            f"of floors is seldom reached. Its memory: {units.gibibytes(peaks.memory_bytes)}."
        )
    touched = {
        row.method: row.touched_flops for row in planned[1:] if row.touched_flops is not None
    }
    floors = {row.method: row.touched_floor for row in planned[1:] if row.touched_floor is not None}
    if touched:
        lines.append(touched_text(touched, "vanilla's FLOPs"))
    if floors:
        lines.append(touched_text(floors, "vanilla's floor"))
    if bound is not None:
        lines.append(
            f"no pruning in the decoder can pass {units.times(bound)} by floors: what is outside "
            "it stays, and so do weights and text."
        )
    lines += _unpriced(planned)
    lines += [f"{c.name}: {c.about} ({c.source})." for c in conventions]
    return lines + [f"{row.method}: {row.note}" for row in planned if row.note]


def _unpriced(planned: list[Planned]) -> list[str]:
    """Whose decisions do not say what they cost beside FLOPs."""
    unsaid = {
        row.method.partition(":")[0]: None
        for row in planned
        if row.visual_per_layer and row.launches is None
    }
    if not unsaid:
        return []
    return [
        f"decisions of {', '.join(unsaid)} are priced by their FLOPs alone, for their "
        "Stage(launches=...) says no operators; a run counts these, and the scratch of all "
        "(`tpprof explain`)."
    ]


def schedule(visual_per_layer: list[int] | None) -> str:
    """Visual tokens by layer in runs, as `0-1: 2880, 2-31: 320`."""
    if not visual_per_layer:
        return units.NA
    runs, first = [], 0
    for count, group in itertools.groupby(visual_per_layer):
        last = first + len(list(group)) - 1
        runs.append(f"{first if first == last else f'{first}-{last}'}: {count}")
        first = last + 1
    return ", ".join(runs)


def _touched_column() -> Column[Planned]:
    return Column(
        "FLOPs it\ncan touch",
        lambda r: units.percent(r.touched_flops),
        {
            "touched_flops_share": lambda r: r.touched_flops,
            "touched_floor_share": lambda r: r.touched_floor,
        },
        "Of vanilla's FLOPs, those in the phases, and decoder layers of prefill, in which the "
        "method has less work; the rest stays as it is (Amdahl).",
        under="FLOPs\nshare",
    )


def _work_columns() -> list[Column[Planned]]:
    return [
        Column("method", lambda r: r.method, {"method": lambda r: r.method}, METHOD, "words"),
        Column(
            "visual tokens by layer",
            lambda r: schedule(r.visual_per_layer),
            {"visual_per_layer": lambda r: r.visual_per_layer},
            "Visual tokens entering each decoder layer.",
            "words",
            under="method",
        ),
        Column(
            "mean",
            lambda r: units.NA if r.visual_mean is None else f"{r.visual_mean:.0f}",
            {},
            "The mean of the visual tokens over layers.",
        ),
        Column(
            "FLOPs",
            lambda r: units.amount(r.flops, "FLOPs"),
            {"flops": lambda r: r.flops},
            "Matrix products of the whole request: 1 MAC = 2 FLOPs, dense attention.",
        ),
        Column(
            "FLOPs\nshare",
            lambda r: units.percent(r.flops_share),
            {"flops_share": lambda r: r.flops_share},
            "Of vanilla's FLOPs.",
            under="FLOPs",
        ),
        Column(
            "prefill\nshare",
            lambda r: units.percent(r.prefill_flops_share),
            {
                "prefill_flops": lambda r: r.prefill_flops,
                "prefill_flops_share": lambda r: r.prefill_flops_share,
            },
            "Of vanilla's FLOPs in the decoder layers over the prompt.",
        ),
        _touched_column(),
        Column(
            "decision\noperators",
            lambda r: units.NA if r.launches is None else f"{r.launches:,}",
            {"decision_operators": lambda r: r.launches},
            "Operators that the method's decisions call, views aside; n/a where it does not say.",
            under="prefill\nshare",
        ),
    ]


def _memory_columns() -> list[Column[Planned]]:
    return [
        Column(
            "KV MB",
            lambda r: units.megabytes(r.kv_bytes),
            {"kv_bytes": lambda r: r.kv_bytes},
            "Bytes of keys and values after prefill, text included; MB of 10^6.",
            under="mean",
        ),
        Column(
            "weights",
            lambda r: units.gibibytes(r.weight_bytes),
            {"weight_bytes": lambda r: r.weight_bytes},
            "Bytes of the model's parameters.",
        ),
        Column(
            "peak memory",
            lambda r: units.gibibytes(r.peak_bytes),
            {"peak_bytes": lambda r: r.peak_bytes},
            "Weights, caches and live tensors of the eager engine.",
            under="weights",
        ),
    ]


def _floor_columns(*, on_device: bool) -> list[Column[Planned]]:
    return [
        Column(
            "floor ms",
            lambda r: units.milliseconds(r.floor_seconds),
            {"floor_seconds": lambda r: r.floor_seconds},
            "The least time that the device allows.",
            shown=on_device,
        ),
        Column(
            "floor\nspeed-up",
            lambda r: units.times(r.floor_speedup),
            {"floor_speedup": lambda r: r.floor_speedup},
            "Vanilla's floor over that of the method.",
            shown=on_device,
            under="floor ms",
        ),
        Column(
            "largest\nbatch",
            lambda r: units.NA if r.largest_batch is None else str(r.largest_batch or "none fits"),
            {"largest_batch": lambda r: r.largest_batch},
            "The most requests at once that fit the device's memory.",
            shown=on_device,
            under="prefill\nshare",
        ),
    ]


def _convention_column(convention: Convention, vanilla: Planned) -> Column[Planned]:
    """What a convention counts; programs get all of them in one value."""

    def text(row: Planned) -> str:
        own, full = row.counted.get(convention.name), vanilla.counted.get(convention.name)
        share = own / full if own is not None and full else None
        return f"{_counted(own, convention.unit)} ({units.percent(share)})"

    return Column(f"by {convention.name}\n(of vanilla)", text, {}, convention.about)


def _counted(value: float | None, unit: str) -> str:
    if value is None:
        return units.NA
    return f"{units.megabytes(value)} MB" if unit == "bytes" else units.amount(value, unit)
