"""The record on a terminal: header, what to know first, table, what it says."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from . import phases, text, trust
from .formats import as_table
from .record import Record
from .summary import rows
from .table import texts

LINE = 160  # columns of a line of text


def show(record: Record, console: Console, *, by_phase: bool = False) -> None:
    """Print the table and what it says; `by_phase` adds one row for every phase of every cell."""
    listed = rows(record)
    for line in text.header(record):
        console.print(Text(line), soft_wrap=True)
    for warning in trust.warnings(record, listed):
        console.print(Text(f"! {warning}", style="yellow"), width=LINE)
    headings, lines = texts(record, listed)
    console.print(as_table(headings, lines, words=range(2)))
    if by_phase:
        headings, lines = phases.texts(record)
        console.print(as_table(headings, lines, words=range(4)))
    for sentence in text.sentences(record, listed):
        console.print(Text(sentence), width=LINE)
    console.print()
    for line in text.footnotes(record, listed):
        console.print(Text(line, style="dim"), width=LINE)
