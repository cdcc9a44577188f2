"""`tpprof env`: what a record keeps of this machine, and what would spoil a measurement."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import typer

from ...reports import units
from ...reports.record.base import Struct
from .options import Format, FormatOption, fail

_APART = ("reasons", "warnings", "code")  # told beside a figure and below; of a gate alone


def show_environment(
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    format_: FormatOption = Format.table,
) -> None:
    """Print what a record keeps of this machine, and what here would spoil a measurement."""
    if format_ not in (Format.table, Format.json):
        fail(f"unknown --format {format_.value!r} for env; known: table, json")
    show(device, format_.value)


def show(device: str | None, form: str) -> None:
    """Print the environment and its warnings; form: table or json."""
    from ...reports.text import table
    from ..machine.doctor import examine

    environment = examine(device)
    if form == "json":
        print(msgspec.json.format(msgspec.json.encode(environment), indent=2).decode())
        return
    found = environment.warnings
    table.console().print(table.as_table(("environment", ""), list(lines(environment)), (0, 1)))
    print("what would spoil a measurement:" if found else "nothing found that would spoil one")
    for line in found:
        print(f"  - {line}")


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
