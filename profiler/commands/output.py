"""How the command prints records and writes their reports."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import SHOWN, Format, fail

if TYPE_CHECKING:
    from ...reports.gate.verdicts import Gate
    from ...reports.record.schema import Record
    from ...reports.text.table import Table

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
        print("".join(f"! {warning}\n" for warning in table.warnings), end="", file=sys.stderr)
    formats = {
        Format.json: table.to_json,
        Format.csv: table.to_csv,
        Format.markdown: table.to_markdown,
        Format.latex: table.to_latex,
        Format.long: table.to_long,
    }
    print(formats[format_](), end="")


def print_record(record: Record, format_: Format, *, by_phase: bool, wide: bool) -> None:
    """The table of methods; `by_phase`: for people beside it, for programs instead of it, the
    table of phases."""
    from ...reports.text import terminal
    from ...reports.text.phases import phases_table
    from ...reports.text.screen import open_screen
    from ...reports.text.table7 import table7

    if format_ is Format.table:
        terminal.print_record(record, open_screen(wide=wide), by_phase=by_phase)
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
) -> None:
    """Write the page, with what a gate found above all, and the figures of each record; says where
    on stderr."""
    try:
        if html is not None:
            from ...reports.page.render import render

            html.parent.mkdir(parents=True, exist_ok=True)
            html.write_text(render(records, names, gate), encoding="utf-8")
            print(f"report: {html}", file=sys.stderr)
        if figures is not None:
            from ...reports.analysis.run_view import RunView
            from ...reports.figures.gallery import save_all, save_side_by_side

            subjects = [RunView(record) for record in records]
            if len(records) > 1:
                save_side_by_side(subjects, names, figures)
            for subject, name in zip(subjects, names, strict=True):
                folder = figures if len(records) == 1 else figures / name
                written = save_all(subject, folder)
                print(f"figures: {len(written)} in {folder}", file=sys.stderr)
    except OSError as error:
        fail(f"{error.filename or html or figures}: {error.strerror or error}")


def require_writable(html: Path | None, figures: Path | None, records: Sequence[Path] = ()) -> None:
    """Fail before anything is measured, not after, where a report could not be written, or would
    be in the place of a record. Nothing is made yet."""
    from ...reports.record.files import journal_of

    if html is not None and html.is_dir():
        fail(f"--html {html} is a folder; give a file, as report.html")
    taken = {path.resolve() for record in records for path in (record, journal_of(record))}
    if html is not None and html.resolve() in taken:
        fail(f"--html {html} is the record itself; give another file, as report.html")
    if figures is not None and figures.exists() and not figures.is_dir():
        fail(f"--figures {figures} is a file; give a folder")
    for option, path in (("--html", html and html.parent), ("--figures", figures)):
        if path is not None:
            _holds(f"{option} {path}", path)


def require_file(option: str, file: Path) -> None:
    """Fail where a file could not be written; `option` is what it is called."""
    if file.is_dir():
        fail(f"{option} is a folder; give a file")
    _holds(option, file.parent)


def _holds(option: str, folder: Path) -> None:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        fail(f"{option}: {there} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        fail(f"{option}: {there} cannot be written")


def require_format(format_: Format, command: str, without: Sequence[Format]) -> None:
    """Fail where the command does not print in this format."""
    if format_ in without:
        listed = ", ".join(form.value for form in Format if form not in without)
        fail(f"unknown --format {format_.value!r} for {command}; known: {listed}")
