"""`tpprof report`: saved records again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import FiguresOption, Format, FormatOption, HtmlOption, PhasesOption, fail
from .output import OverwriteOption, WideOption


def report(
    files: Annotated[
        list[Path], typer.Argument(help="Records that `tpprof compare` saved; several: compared.")
    ],
    format_: FormatOption = Format.table,
    phases: PhasesOption = False,
    html: HtmlOption = None,
    figures: FiguresOption = None,
    wide: WideOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Print saved records again, or what a run that did not end has measured; several side by
    side."""
    from ...reports.record.files import load
    from ...reports.text import side_by_side
    from . import output

    records, names = [load(file) for file in files], side_by_side.names_of(files)
    read = output.files_of(files)
    output.require_outputs(output.pages(html), read, figures=figures, overwrite=overwrite)
    if phases and len(records) > 1:
        fail("--phases is for one record; several stand side by side, method by method")
    output.write(records, names, html, figures, overwrite=overwrite)
    if len(records) == 1:
        output.print_record(records[0], format_, by_phase=phases, wide=wide)
    else:
        output.print_records(records, names, format_, wide=wide)
