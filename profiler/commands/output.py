"""How the command prints records and writes their reports."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import Format, fail

if TYPE_CHECKING:
    import pandas

    from ...reports.gate.verdicts import Gate
    from ...reports.record.schema import Record


def show(record: Record, format_: Format, *, by_phase: bool) -> None:
    """The table of methods; `by_phase`: for people beside it, for machines instead of it, the
    table of phases."""
    from ...reports.analysis import caveats, phases
    from ...reports.text import table, table7

    if format_ is Format.table:
        from ...reports.text.terminal import show

        show(record, table.console(), by_phase=by_phase)
        return
    source = phases if by_phase else table7
    emit(
        format_,
        caveats.warnings(record),
        plain=lambda: source.plain(record),
        texts=lambda: source.texts(record),
        frame=record.frame,
        words=4 if by_phase else 2,
    )


def show_beside(records: Sequence[Record], names: Sequence[str], format_: Format) -> None:
    """Several records side by side, aligned by method."""
    from ...reports.analysis import caveats
    from ...reports.text import side_by_side, table

    if format_ is Format.table:
        side_by_side.show(records, names, table.console())
        return
    own = [
        f"{called}: {warning}"
        for record, called in zip(records, names, strict=True)
        for warning in caveats.warnings(record)
    ]
    emit(
        format_,
        own + side_by_side.warnings(records, names),
        plain=lambda: side_by_side.plain(records, names),
        texts=lambda: side_by_side.texts(records, names),
        frame=lambda: _framed(records, names),
        words=2,
    )


def emit(
    format_: Format,
    warnings: Sequence[str],
    *,
    plain: Callable[[], list[dict[str, Any]]],
    texts: Callable[[], tuple[Sequence[str], Sequence[Sequence[str]]]],
    frame: Callable[[], pandas.DataFrame] | None = None,
    words: int = 1,
) -> None:
    """Print in any format but the table; the first `words` columns of `texts` hold text. Warnings
    go above Markdown, and to stderr for the rest, which a program reads."""
    from ...reports.text import table

    if format_ is Format.markdown:
        print("".join(f"> {warning}\n\n" for warning in warnings), end="")
        print(table.as_markdown(*texts()), end="")
        return
    print("".join(f"! {warning}\n" for warning in warnings), end="", file=sys.stderr)
    if format_ is Format.json:
        print(table.as_json(plain()), end="")
    elif format_ is Format.csv:
        print(table.as_csv(plain()), end="")
    elif format_ is Format.latex:
        print(table.as_latex(*texts(), words=range(words)), end="")
    elif frame is not None:
        print(table.as_long(frame()), end="")


def _framed(records: Sequence[Record], names: Sequence[str]) -> pandas.DataFrame:
    import pandas

    framed = [record.frame() for record in records]
    for frame, name in zip(framed, names, strict=True):
        frame.insert(0, "record", name)
    return pandas.concat(framed)


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
            from ...reports.figures.gallery import save_all, save_beside

            subjects = [RunView(record) for record in records]
            if len(records) > 1:
                save_beside(subjects, names, figures)
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
    taken = {place.resolve() for record in records for place in (record, journal_of(record))}
    if html is not None and html.resolve() in taken:
        fail(f"--html {html} is the record itself; give another file, as report.html")
    if figures is not None and figures.exists() and not figures.is_dir():
        fail(f"--figures {figures} is a file; give a folder")
    for option, path in (("--html", html and html.parent), ("--figures", figures)):
        if path is not None:
            _holds(f"{option} {path}", path)


def require_file(told: str, file: Path) -> None:
    """Fail where a file could not be written; `told` is what it is called."""
    if file.is_dir():
        fail(f"{told} is a folder; give a file")
    _holds(told, file.parent)


def _holds(told: str, folder: Path) -> None:
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        fail(f"{told}: {there} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        fail(f"{told}: {there} cannot be written")


def require_format(format_: Format, command: str, without: Sequence[Format]) -> None:
    """Fail where the command does not print in this format."""
    if format_ in without:
        listed = ", ".join(form.value for form in Format if form not in without)
        fail(f"unknown --format {format_.value!r} for {command}; known: {listed}")
