"""How the command prints records and writes their reports."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...reports import outputs
from ...reports.outputs import Output
from ...reports.sanitize import say
from .options import SHOWN, Format, fail

if TYPE_CHECKING:
    from ...reports.gate.verdicts import Gate
    from ...reports.record.schema import Record
    from ...reports.record.spec import Subject
    from ...reports.stopwatches.known import FieldStopwatch
    from ...reports.text.table import Table

OverwriteOption = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace files that are there though tpprof did not make them.",
        rich_help_panel=SHOWN,
    ),
]
WideOption = Annotated[
    bool,
    typer.Option(
        "--wide",
        help="Tables as wide as they are, in a narrow terminal too.",
        rich_help_panel=SHOWN,
    ),
]


def print_table(table: Table[Any], format_: Format, *, wide: bool = False) -> None:
    """Print a table. Its warnings go above lines and Markdown, and to stderr for the rest, which a
    program reads."""
    from ...reports.text.screen import open_screen

    if format_ is Format.table:
        open_screen(wide=wide).print_table(table)
        return
    if format_ is not Format.markdown:
        for warning in table.warnings:
            say(f"! {warning}")
    formats = {
        Format.json: table.to_json,
        Format.csv: table.to_csv,
        Format.markdown: table.to_markdown,
        Format.latex: table.to_latex,
        Format.long: table.to_long,
    }
    print(formats[format_](), end="")


def stopwatches(
    names: Sequence[str] | None, *, by_phase: bool, format_: Format
) -> list[FieldStopwatch]:
    """The stopwatches of the field that were asked for; ends the program where there is no such
    one, or where a program cannot read two tables."""
    from ...reports.record.base import RecordError
    from ...reports.stopwatches.known import named

    if names and by_phase and format_ is not Format.table:
        fail(f"--format {format_.value} prints one table: give --phases or --window")
    try:
        return named(names or ())
    except RecordError as error:
        fail(f"--window: {error}")


def print_record(
    record: Record,
    format_: Format,
    *,
    by_phase: bool,
    wide: bool,
    windows: Sequence[FieldStopwatch] = (),
) -> None:
    """The table of methods; `by_phase`: for people beside it, for programs instead of it, the
    table of phases. windows: the same, with what these stopwatches of the field would have said."""
    from ...reports.stopwatches.table import stopwatches_table
    from ...reports.text import terminal
    from ...reports.text.phases import phases_table
    from ...reports.text.screen import open_screen
    from ...reports.text.table7 import table7

    if format_ is Format.table:
        terminal.print_record(record, open_screen(wide=wide), by_phase=by_phase)
        if windows:
            open_screen(wide=wide).print_table(stopwatches_table(record, windows))
    elif windows:
        print_table(stopwatches_table(record, windows), format_)
    else:
        print_table(phases_table(record) if by_phase else table7(record), format_)


def print_records(
    records: Sequence[Record], names: Sequence[str], format_: Format, *, wide: bool
) -> None:
    """Several records side by side, aligned by method."""
    from ...reports.text import side_by_side
    from ...reports.text.screen import open_screen

    if format_ is Format.table:
        side_by_side.print_records(records, names, open_screen(wide=wide))
    else:
        print_table(side_by_side.side_by_side_table(records, names), format_)


def write(
    records: Sequence[Record],
    names: Sequence[str],
    html: Path | None,
    figures: Path | None = None,
    gate: Gate | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write the page, with what a gate found above all, and the figures of each record; says where
    on stderr. Raises OutputError."""
    if html is not None:
        from ...reports.page.render import render

        page = render(records, names, gate).encode(errors="replace")
        outputs.write(html, page, "page", overwrite=overwrite)
        say(f"report: {html}")
    if figures is not None:
        from ...reports.analysis.run_view import RunView
        from ...reports.figures.gallery import save_all, save_side_by_side

        subjects = [RunView(record) for record in records]
        if len(records) > 1:
            save_side_by_side(subjects, names, figures, overwrite=overwrite)
        for subject, name in zip(subjects, names, strict=True):
            folder = figures if len(records) == 1 else figures / (name.strip(". ") or "record")
            written = save_all(subject, folder, overwrite=overwrite)
            say(f"figures: {len(written)} in {folder}")


def require_outputs(
    written: Sequence[Output],
    read: Iterable[Path | None] = (),
    *,
    figures: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Ends the program, before anything runs, where a file could not be written, or would be lost
    or mixed up by it. read: all files that the command reads."""
    if figures is not None:
        outputs.require_folder("--figures", figures)
    outputs.require_outputs(written, [path for path in read if path], overwrite=overwrite)


def pages(html: Path | None) -> list[Output]:
    return [] if html is None else [Output("--html", html, "page")]


def files_of(records: Iterable[Path]) -> list[Path]:
    """Records and the journals beside them."""
    from ...reports.record.files import journal_of

    return [path for record in records for path in (record, journal_of(record))]


def read_by(subject: Subject) -> list[Path]:
    """The files and folders that running a subject reads."""
    plugins = [Path(name) for name in subject.cells.plugin if name.endswith(".py")]
    workload = subject.workload
    named = [subject.model.name, *workload.image, workload.video, workload.messages]
    return [*plugins, *(Path(name) for name in named if name and os.path.exists(name))]


def require_format(format_: Format, command: str, without: Sequence[Format]) -> None:
    """Fail where the command does not print in this format."""
    if format_ in without:
        listed = ", ".join(form.value for form in Format if form not in without)
        fail(f"unknown --format {format_.value!r} for {command}; known: {listed}")
