"""`tpprof flops`: plan tokens, FLOPs, bytes, memory and the least time, without running."""

from __future__ import annotations

import itertools
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from ...reports import units
from ...reports.record.schema import Peaks
from ...reports.record.spec import Cells, ModelSpec, Subject, Workload
from ...reports.text import table as formats
from ...reports.text.terminal import LINE
from .options import Format, FormatOption, Typed, fail, short, takes

if TYPE_CHECKING:
    from ..cost.conventions import Convention
    from ..cost.planning import Planned, Wanted

OMITTED = ("device", "backend", "seed", "runtime", "equalize", "prompt")
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
def flops(
    typed: Typed,
    device: PlanDeviceOption = None,
    sweep: SweepOption = False,
    for_speedup: ForSpeedupOption = None,
    for_memory: ForMemoryOption = None,
    convention: ConventionOption = None,
    format_: FormatOption = Format.table,
) -> None:
    """Plan tokens, FLOPs, bytes, memory and the least time, without GPU or weights."""
    from ...methods import load_plugins
    from .output import require_format

    require_format(format_, "flops", [Format.long])
    spec = typed.alone(Subject)
    if not spec.cells.methods:
        fail("name a METHOD (fastv:keep=320), as `tpprof methods` lists them")
    load_plugins(spec.cells.plugin)
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
    )
    wanted = _wanted(sweep, for_speedup, for_memory)
    planned = planner.table(spec.cells.methods, spec.cells.keep, wanted)
    show(planned, format_.value, peaks, conventions)
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
        fail(f"{option} {short(text)} is not an amount above 0, as {example}")
    return value


def show(
    table: list[Planned], format_: str, peaks: Peaks | None, conventions: list[Convention]
) -> None:
    """Print the plan as a table, JSON, CSV, Markdown or LaTeX."""
    if format_ == "json":
        print(formats.as_json([_plain(row) for row in table]), end="")
        return
    if format_ == "csv":
        print(formats.as_csv([_flat(row) for row in table]), end="")
        return
    headings, lines = texts(table, peaks, conventions)
    if format_ == "markdown":
        print(formats.as_markdown(headings, lines), end="")
        return
    if format_ == "latex":
        print(formats.as_latex(headings, lines, words=(0, 1)), end="")
        return
    console = formats.console()
    console.print(formats.as_table(headings, lines, words=(0, 1)))
    for note in notes(table, peaks, conventions):
        console.print(Text(note), width=LINE)


def texts(
    table: list[Planned], peaks: Peaks | None, conventions: list[Convention]
) -> tuple[list[str], list[list[str]]]:
    """Headings, and one line per method."""
    headings = [
        "method",
        "visual tokens by layer",
        "mean",
        "FLOPs",
        "FLOPs\nshare",
        "prefill\nshare",
        "KV MB",
        "weights",
        "peak memory",
    ]
    if peaks is not None:
        headings += ["floor ms", "floor\nspeed-up", "largest\nbatch"]
    headings += [f"by {c.name}\n(of vanilla)" for c in conventions]
    return headings, [_line(row, table[0], peaks is not None, conventions) for row in table]


def notes(table: list[Planned], peaks: Peaks | None, conventions: list[Convention]) -> list[str]:
    """What the figures mean, and what could not be planned."""
    told = [
        "peak memory: weights, caches and live tensors of the eager engine; kernels' scratch, "
        "fragmentation and the device's own context come on top."
    ]
    if len({row.method.partition(":")[0] for row in table}) > 2:
        told.append(
            "budgets differ in meaning from method to method: compare the means over layers."
        )
    if peaks is None:
        told.append("no device is named (--device): speed-ups looked for are those of the FLOPs.")
    else:
        rough = ""
        if not peaks.launch_seconds:
            rough = "; by datasheet: no launches, all bytes at the memory's speed, caches unknown"
        told.append(
            f"floor: the least time that {peaks.device} ({peaks.source}{rough}) allows for vision, "
            "prefill and decode with torch's kernels; a real run takes longer, and the speed-up "
            f"of floors is seldom reached. Its memory: {units.gibibytes(peaks.memory_bytes)}."
        )
    told += [f"{c.name}: {c.about} ({c.source})." for c in conventions]
    return told + [f"{row.method}: {row.note}" for row in table if row.note]


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


def _line(
    row: Planned, vanilla: Planned, on_device: bool, conventions: list[Convention]
) -> list[str]:
    mean = row.visual_mean
    line = [
        row.method,
        schedule(row.visual_per_layer),
        units.NA if mean is None else f"{mean:.0f}",
        units.amount(row.flops, "FLOPs"),
        units.percent(row.flops_share),
        units.percent(row.prefill_flops_share),
        units.megabytes(row.kv_bytes),
        units.gibibytes(row.weight_bytes),
        units.gibibytes(row.peak_bytes),
    ]
    if on_device:
        batch = units.NA if row.largest_batch is None else str(row.largest_batch or "none fits")
        line += [units.milliseconds(row.floor_seconds), units.times(row.floor_speedup), batch]
    for c in conventions:
        own, full = row.counted.get(c.name), vanilla.counted.get(c.name)
        share = own / full if own is not None and full else None
        line.append(f"{_counted(own, c.unit)} ({units.percent(share)})")
    return line


def _counted(value: float | None, unit: str) -> str:
    if value is None:
        return units.NA
    return f"{units.megabytes(value)} MB" if unit == "bytes" else units.amount(value, unit)


def _plain(row: Planned) -> dict[str, Any]:
    derived = {"visual_last": row.visual_last, "visual_mean": row.visual_mean}
    return asdict(row) | derived


def _flat(row: Planned) -> dict[str, Any]:
    """One level, as a CSV file wants it."""
    plain = _plain(row)
    counted: dict[str, float] = plain.pop("counted")
    plain["visual_per_layer"] = schedule(row.visual_per_layer)
    return plain | {f"counted_{name}": value for name, value in counted.items()}
