"""How the command prints records and writes their reports."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .options import Format, fail

if TYPE_CHECKING:
    from ..reports.record import Record


def show(record: Record, format_: Format, *, by_phase: bool) -> None:
    """The table of methods; `by_phase`: for people beside it, for machines instead of it, the
    table of phases."""
    from ..reports import formats, phases, table, trust

    if format_ is Format.table:
        from ..reports.terminal import show

        show(record, formats.console(), by_phase=by_phase)
        return
    warnings = trust.warnings(record)
    if format_ is not Format.markdown:  # a program reads the rest, without lines of ours
        print("".join(f"! {warning}\n" for warning in warnings), end="", file=sys.stderr)
    source = phases if by_phase else table
    if format_ is Format.json:
        print(formats.as_json(source.plain(record)), end="")
    elif format_ is Format.csv:
        print(formats.as_csv(source.plain(record)), end="")
    elif format_ is Format.long:
        print(record.frame().to_csv(index=False), end="")
    elif format_ is Format.latex:
        headings, lines = source.texts(record)
        print(formats.as_latex(headings, lines, words=range(4 if by_phase else 2)), end="")
    else:
        print("".join(f"> {warning}\n\n" for warning in warnings), end="")
        print(formats.as_markdown(*source.texts(record)), end="")


def show_beside(records: Sequence[Record], names: Sequence[str], format_: Format) -> None:
    """Several records side by side, aligned by method."""
    from ..reports import formats, side

    warnings = side.warnings(records, names)
    if format_ is Format.table:
        side.show(records, names, formats.console())
        return
    if format_ is Format.markdown:
        print("".join(f"> {warning}\n\n" for warning in warnings), end="")
    else:
        print("".join(f"! {warning}\n" for warning in warnings), end="", file=sys.stderr)
    if format_ is Format.json:
        print(formats.as_json(side.plain(records, names)), end="")
    elif format_ is Format.csv:
        print(formats.as_csv(side.plain(records, names)), end="")
    elif format_ is Format.long:
        import pandas

        framed = [record.frame() for record in records]
        for frame, name in zip(framed, names, strict=True):
            frame.insert(0, "record", name)
        print(pandas.concat(framed).to_csv(index=False), end="")
    else:
        headings, lines = side.texts(records, names)
        latex = format_ is Format.latex
        print(
            formats.as_latex(headings, lines, words=range(2))
            if latex
            else formats.as_markdown(headings, lines),
            end="",
        )


def write(
    records: Sequence[Record], names: Sequence[str], html: Path | None, figures: Path | None
) -> None:  # fmt: skip
    """Write the page, and the figures of each record; says where on stderr."""
    try:
        if html is not None:
            from ..reports.page.render import render

            html.parent.mkdir(parents=True, exist_ok=True)
            html.write_text(render(records, names), encoding="utf-8")
            print(f"report: {html}", file=sys.stderr)
        if figures is not None:
            from ..reports.figures.gallery import save_all, save_beside
            from ..reports.subject import Subject

            subjects = [Subject(record) for record in records]
            if len(records) > 1:
                save_beside(subjects, names, figures)
            for subject, name in zip(subjects, names, strict=True):
                folder = figures if len(records) == 1 else figures / name
                written = save_all(subject, folder)
                print(f"figures: {len(written)} in {folder}", file=sys.stderr)
    except OSError as error:
        fail(f"{error.filename or html or figures}: {error.strerror or error}")


def can_write(html: Path | None, figures: Path | None) -> None:
    """Fail before anything is measured, not after, where a report could not be written."""
    if html is not None and html.is_dir():
        fail(f"--html {html} is a folder; give a file, as report.html")
    if figures is not None and figures.exists() and not figures.is_dir():
        fail(f"--figures {figures} is a file; give a folder")
    for option, path in (("--html", html and html.parent), ("--figures", figures)):
        if path:
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                fail(f"{option} {path}: {error.strerror or error}")


def known(format_: Format, command: str, without: Sequence[Format]) -> None:
    """Fail where the command does not print in this format."""
    if format_ in without:
        listed = ", ".join(form.value for form in Format if form not in without)
        fail(f"unknown --format {format_.value!r} for {command}; known: {listed}")
