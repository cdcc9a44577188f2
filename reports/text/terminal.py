"""The record on a terminal: header, what to know first, table, what it says."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from ..analysis import caveats
from ..analysis.summary import rows
from ..record.schema import Record
from . import phases, sentences
from .table import as_table
from .table7 import texts

LINE = 160  # columns of a line of text


def show(record: Record, console: Console, *, by_phase: bool = False) -> None:
    """Print the table and what it says; `by_phase` adds one row for every phase of every cell."""
    listed = rows(record)
    for line in sentences.header(record):
        console.print(Text(line), soft_wrap=True)
    for warning in caveats.warnings(record, listed):
        console.print(Text(f"! {warning}", style="yellow"), width=LINE)
    headings, lines = texts(record, listed)
    console.print(as_table(headings, lines, words=range(2)))
    if by_phase:
        headings, lines = phases.texts(record)
        console.print(as_table(headings, lines, words=range(4)))
    for sentence in sentences.sentences(record, listed):
        console.print(Text(sentence), width=LINE)
    console.print()
    for line in sentences.footnotes(record, listed):
        console.print(Text(line, style="dim"), width=LINE)
