"""`tpprof report`: saved records again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import FiguresOption, Format, FormatOption, HtmlOption, PhasesOption, fail


def report(
    files: Annotated[
        list[Path], typer.Argument(help="Records that `tpprof compare` saved; several: compared.")
    ],
    format_: FormatOption = Format.table,
    phases: PhasesOption = False,
    html: HtmlOption = None,
    figures: FiguresOption = None,
) -> None:
    """Print saved records again, or what a run that did not end has measured; several side by
    side."""
    from ...reports.record import files as saved
    from ...reports.text import side_by_side
    from . import output

    records, names = [saved.load(file) for file in files], side_by_side.names_of(files)
    output.require_writable(html, figures, files)
    if phases and len(records) > 1:
        fail("--phases is for one record; several stand side by side, method by method")
    if len(records) == 1:
        output.show(records[0], format_, by_phase=phases)
    else:
        output.show_beside(records, names, format_)
    output.write(records, names, html, figures)
