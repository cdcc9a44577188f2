"""`tpprof explain`: where the time between promise and clock went."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .options import Format, FormatOption


def explain(
    file: Annotated[Path, typer.Argument(help="A record that `tpprof compare` saved.")],
    method: Annotated[
        str | None, typer.Argument(help="A method of it, by name or spec; default: all.")
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Add the decoder layers.")] = False,
    format_: FormatOption = Format.table,
) -> None:
    """Show where the time between the FLOPs promise and the clock went, and what to do."""
    from ...reports.record.files import load
    from ...reports.text import table, waterfall
    from .output import require_format

    require_format(format_, "explain", [Format.long])
    record = load(file)
    if format_ in (Format.json, Format.csv, Format.latex):  # which have no room for it
        for line in waterfall.chosen(record, method).failed:
            print(line, file=sys.stderr)
    if format_ is Format.json:
        print(table.as_json(waterfall.plain(record, method)), end="")
    elif format_ is Format.csv:
        print(table.as_csv(waterfall.flat(record, method)), end="")
    elif format_ is Format.markdown:
        print(waterfall.markdown(record, method), end="")
    elif format_ is Format.latex:
        found = waterfall.chosen(record, method).found
        print(table.as_latex(*waterfall.side_by_side(found)), end="")
    else:
        waterfall.show(record, table.console(), method, by_layer=layers)
