"""`tpprof env`: what a record keeps of this machine, and what would spoil a measurement."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import typer

from ...reports import units
from ...reports.record.base import Struct
from ...reports.record.environment import Environment
from ...reports.sanitize import for_json
from ...reports.text.table import Column, Table
from .options import Format, FormatOption, fail
from .output import print_table

_APART = ("reasons", "warnings", "code")  # told beside a figure and below; of a gate alone


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
