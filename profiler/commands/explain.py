"""`tpprof explain`: where the time between promise and clock went."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...reports.sanitize import say
from .options import Format, FormatOption
from .output import WideOption, print_table, require_format


def explain(
    file: Annotated[Path, typer.Argument(help="A record that `tpprof compare` saved.")],
    method: Annotated[
        str | None, typer.Argument(help="A method of it, by name or spec; default: all.")
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Add the decoder layers.")] = False,
    format_: FormatOption = Format.table,
    wide: WideOption = False,
) -> None:
    """Show where the time between the FLOPs promise and the clock went, and what to do."""
    from ...reports.record.files import load
    from ...reports.text import waterfall
    from ...reports.text.screen import open_screen

    require_format(format_, "explain", [Format.long])
    record = load(file)
    if format_ is Format.table:
        waterfall.print_explanations(record, open_screen(wide=wide), method, by_layer=layers)
        return
    if format_ is Format.markdown:
        print(waterfall.as_markdown(record, method), end="")
        return
    chosen = waterfall.chosen(record, method)
    for line in chosen.failed:  # for which these forms have no room
        say(line)
    found = chosen.found
    if format_ is Format.json:
        print_table(waterfall.explanations_table(record, found), format_)
    elif format_ is Format.csv:
        print_table(waterfall.explanation_table(found), format_)
    else:
        print_table(waterfall.causes_table(found), format_)
