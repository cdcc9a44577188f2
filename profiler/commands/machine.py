"""`env` and `calibrate`: what the machine is, and the most that it can do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Annotated, Any

import msgspec
import typer

from ...reports import units
from ...reports.record.base import Struct
from ...reports.record.environment import Environment
from ...reports.record.schema import Peaks
from ...reports.sanitize import for_json
from ...reports.text.table import Column, Table, for_programs
from ..machine.datasheets import datasheet_of
from .options import Format, FormatOption, fail
from .output import print_table, require_format

_APART = ("reasons", "warnings", "code")  # told beside a figure and below; of a gate alone


Unit = Callable[[float | None], str]


def show_environment(
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    format_: FormatOption = Format.table,
) -> None:
    """Print what a record keeps of this machine, and what here would spoil a measurement."""
    if format_ not in (Format.table, Format.json):
        fail(f"unknown --format {format_.value!r} for env; known: table, json")
    from ...reports.text.screen import open_screen
    from ..machine.doctor import examine

    environment = examine(device)
    if format_ is Format.json:
        print(for_json(msgspec.json.format(msgspec.json.encode(environment), indent=2).decode()))
        return
    found = environment.warnings
    print_table(environment_table(environment), format_)
    screen = open_screen()
    title = "what would spoil a measurement:" if found else "nothing found that would spoil one"
    screen.print_line(title)
    for line in found:
        screen.print_line(f"  - {line}", whole=True)


def environment_table(environment: Environment) -> Table[tuple[str, str]]:
    """One row per figure."""
    return Table(
        [
            Column("environment", lambda r: r[0], {"name": lambda r: r[0]}, kind="words"),
            Column("", lambda r: r[1], {"value": lambda r: r[1]}, kind="words"),
        ],
        list(lines(environment)),
    )


def lines(described: Struct | dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Name and text of every figure; an unknown one comes with its reason."""
    figures = described if isinstance(described, dict) else msgspec.structs.asdict(described)
    reasons = figures.get("reasons", {})
    for name, value in figures.items():
        if name in _APART:
            continue
        if isinstance(value, (Struct, dict)):
            yield from lines(value, f"{prefix}{name}.")
        elif value is None:
            why = reasons.get(name, "not installed" if prefix == "packages." else "unknown")
            yield prefix + name, f"{units.NA} ({why})"
        else:
            yield prefix + name, _text(name, value)


def _text(name: str, value: Any) -> str:
    if name.endswith("_bytes"):
        return units.gibibytes(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_text("", item) for item in value)
    return str(value)


def calibrate_device(
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    format_: FormatOption = Format.table,
) -> None:
    """Measure what this device can do at best, for the roofline; kept for later runs."""
    require_format(format_, "calibrate", [Format.long])
    from ...reports.text.screen import open_screen
    from ..machine.calibration import calibrate, calibration_file
    from ..models.load import default_device

    target = default_device(device)
    peaks = calibrate(target)
    if format_ is Format.json:
        print(for_json(msgspec.json.format(msgspec.json.encode(peaks), indent=2).decode()))
        return
    screen = open_screen()
    if format_ is Format.table:
        threads = f", {peaks.threads} threads" if peaks.threads else ""
        screen.print_line(f"{peaks.device}{threads}, torch {peaks.torch}")
    print_table(calibration_table(peaks, datasheet_of(peaks.device)), format_)
    if format_ is Format.table:
        screen.print_line(f"kept: {calibration_file(target)}", whole=True)


@dataclass(frozen=True)
class Best:
    """What a device does at best in one respect, in SI units, and what its datasheet says; `unit`
    makes text of either. beyond: what the datasheet says nothing of."""

    what: str
    measured: float | None
    published: float | None
    unit: Unit
    beyond: bool = False


def calibration_table(peaks: Peaks, sheet: Peaks | None) -> Table[Best]:
    """What was measured beside the datasheet, where there is one."""
    return Table(
        [
            Column("", lambda r: r.what, about="What is measured.", kind="words"),
            Column("measured", lambda r: r.unit(r.measured), about="The best that was ever seen."),
            Column(
                "datasheet",
                lambda r: "" if r.beyond else r.unit(r.published),
                about="What the maker says.",
            ),
        ],
        _rows(peaks, sheet),
        notes=peaks.notes,
        programs=_one_row(peaks),
    )


def _rows(peaks: Peaks, sheet: Peaks | None) -> list[Best]:
    published = sheet.flops_per_second if sheet else {}
    memory = sheet.bandwidth[0].bytes_per_second if sheet else None
    rows = [
        Best(f"{dtype} products", rate, published.get(dtype), units.rate)
        for dtype, rate in peaks.flops_per_second.items()
    ]
    for number, level in enumerate(peaks.bandwidth, 1):
        what = f"bandwidth on {level.footprint_bytes / 2**20:g} MiB"
        cached = number < len(peaks.bandwidth)
        rows.append(Best(what, level.bytes_per_second, memory, units.bandwidth, beyond=cached))
    for what, seconds in (
        ("least time of an operator", peaks.kernel_seconds),
        ("least time to launch one", peaks.launch_seconds),
    ):
        rows.append(Best(what, seconds, None, units.microseconds, beyond=True))
    whole = sheet.memory_bytes if sheet else None
    return [*rows, Best("memory", peaks.memory_bytes, whole, units.gibibytes)]


def _one_row(peaks: Peaks) -> Table[dict[str, object]]:
    """All of it as one row, for programs."""
    row: dict[str, object] = {
        "device": peaks.device,
        **{f"{dtype}_flops_per_second": r for dtype, r in peaks.flops_per_second.items()},
        **{
            f"bytes_per_second_on_{level.footprint_bytes}_bytes": level.bytes_per_second
            for level in peaks.bandwidth
        },
        "kernel_seconds": peaks.kernel_seconds,
        "launch_seconds": peaks.launch_seconds,
        "memory_bytes": peaks.memory_bytes,
    }
    return Table([for_programs(name, itemgetter(name)) for name in row], [row])
