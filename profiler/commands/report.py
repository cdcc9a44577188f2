"""`tpprof report` and `tpprof explain`: saved records again, and where their time went."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...reports.record.spec import changed
from ...reports.sanitize import say
from .options import (
    SHOWN,
    FiguresOption,
    Format,
    FormatOption,
    HtmlOption,
    PhasesOption,
    WindowOption,
    fail,
)
from .output import OverwriteOption, WideOption, print_table, require_format

RuleOption = Annotated[
    str | None,
    typer.Option(
        help="Read saved answers by another rule: llava, strict or words.", rich_help_panel=SHOWN
    ),
]


def report(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Records that `tpprof compare` saved, several: compared; or one sweep's folder."
        ),
    ],
    format_: FormatOption = Format.table,
    phases: PhasesOption = False,
    window: WindowOption = None,
    html: HtmlOption = None,
    figures: FiguresOption = None,
    wide: WideOption = False,
    rule: RuleOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Print saved records again, or what a run that did not end has measured; several side by
    side."""
    from ...reports.record.files import load
    from ...reports.sweep import grid
    from ...reports.text import side_by_side
    from . import output
    from .sweep import show

    if len(files) == 1 and grid.is_sweep(files[0]):
        output.require_outputs(output.pages(html), [grid.journal_of(files[0])], overwrite=overwrite)
        show(grid.load(files[0]), files[0], html, format_, wide=wide, overwrite=overwrite)
        return
    records, names = [load(file) for file in files], side_by_side.names_of(files)
    for record in records:
        record.spec = changed(record.spec, **({"rule": rule} if rule else {}))
    read = output.files_of(files)
    output.require_outputs(output.pages(html), read, figures=figures, overwrite=overwrite)
    if (phases or window) and len(records) > 1:
        which = "--phases" if phases else "--window"
        fail(f"{which} is for one record; several stand side by side, method by method")
    windows = output.stopwatches(window, by_phase=phases, format_=format_)
    output.write(records, names, html, figures, overwrite=overwrite)
    if len(records) == 1:
        output.print_record(records[0], format_, by_phase=phases, windows=windows, wide=wide)
    else:
        output.print_records(records, names, format_, wide=wide)


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
