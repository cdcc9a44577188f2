"""`tpprof calibrate`: what this device can do at best."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from ...reports import units
from ...reports.record.schema import Peaks
from ...reports.text import table
from ..machine.datasheets import datasheet_of
from .options import Format, FormatOption


def calibrate_device(
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    format_: FormatOption = Format.table,
) -> None:
    """Measure what this device can do at best, for the roofline; kept for later runs."""
    from .output import require_format

    require_format(format_, "calibrate", [Format.long])
    show(device, format_.value)


def show(device: str | None, format_: str) -> None:
    """Calibrate `device`, keep the result and print it beside the datasheet, where there is one."""
    from ..machine.calibration import calibrate, place
    from ..models.load import default_device

    target = default_device(device)
    peaks = calibrate(target)
    if format_ == "json":
        print(msgspec.json.format(msgspec.json.encode(peaks), indent=2).decode())
        return
    rows = _rows(peaks, datasheet_of(peaks.device))
    headings = ["", "measured", "datasheet"]
    if format_ == "csv":
        print(table.as_csv(_plain(peaks)), end="")
        return
    if format_ == "markdown":
        print(table.as_markdown(headings, rows), end="")
        return
    if format_ == "latex":
        print(table.as_latex(headings, rows), end="")
        return
    console = table.console()
    threads = f", {peaks.threads} threads" if peaks.threads else ""
    console.print(f"{peaks.device}{threads}, torch {peaks.torch}", markup=False, highlight=False)
    console.print(table.as_table(headings, rows))
    for note in peaks.notes:
        console.print(note, markup=False, highlight=False)
    console.print(f"kept: {place(target)}", markup=False, highlight=False, soft_wrap=True)


def _rows(peaks: Peaks, sheet: Peaks | None) -> list[list[str]]:
    """What was measured, and what the datasheet says."""
    published = sheet.flops_per_second if sheet else {}
    rows = [
        [f"{dtype} products", units.rate(rate), units.rate(published.get(dtype))]
        for dtype, rate in peaks.flops_per_second.items()
    ]
    memory = sheet.bandwidth[0].bytes_per_second if sheet else None
    for number, level in enumerate(peaks.bandwidth):
        last = number == len(peaks.bandwidth) - 1
        size = f"{level.footprint_bytes / 2**20:g} MiB"
        rows.append(
            [
                f"bandwidth on {size}",
                units.bandwidth(level.bytes_per_second),
                units.bandwidth(memory) if last else "",
            ]
        )
    rows.append(["least time of an operator", units.microseconds(peaks.kernel_seconds), ""])
    rows.append(["least time to launch one", units.microseconds(peaks.launch_seconds), ""])
    rows.append(
        [
            "memory",
            units.gibibytes(peaks.memory_bytes),
            units.gibibytes(sheet.memory_bytes if sheet else None),
        ]
    )
    return rows


def _plain(peaks: Peaks) -> list[dict[str, Any]]:
    found = {f"{dtype}_flops_per_second": r for dtype, r in peaks.flops_per_second.items()}
    for level in peaks.bandwidth:
        found[f"bytes_per_second_on_{level.footprint_bytes}_bytes"] = level.bytes_per_second
    return [
        {
            "device": peaks.device,
            **found,
            "kernel_seconds": peaks.kernel_seconds,
            "launch_seconds": peaks.launch_seconds,
            "memory_bytes": peaks.memory_bytes,
        }
    ]
