"""`tpprof report`: saved records again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import FiguresOption, Format, FormatOption, HtmlOption, PhasesOption, fail
from .output import WideOption


def report(
    files: Annotated[
        list[Path], typer.Argument(help="Records that `tpprof compare` saved; several: compared.")
    ],
    format_: FormatOption = Format.table,
    phases: PhasesOption = False,
    html: HtmlOption = None,
    figures: FiguresOption = None,
    wide: WideOption = False,
) -> None:
    """Print saved records again, or what a run that did not end has measured; several side by
    side."""
    from ...reports.record.files import load
    from ...reports.text import side_by_side
    from . import output

    records, names = [load(file) for file in files], side_by_side.names_of(files)
    output.require_writable(html, figures, files)
    if phases and len(records) > 1:
        fail("--phases is for one record; several stand side by side, method by method")
    if len(records) == 1:
        output.print_record(records[0], format_, by_phase=phases, wide=wide)
    else:
        output.print_records(records, names, format_, wide=wide)
    output.write(records, names, html, figures)
