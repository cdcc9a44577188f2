"""The record on a terminal: header, table, what it says."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from . import text
from .formats import as_table
from .record import Record
from .table import texts


def show(record: Record, console: Console) -> None:
    """Print the table and what it says."""
    for line in text.header(record):
        console.print(Text(line), soft_wrap=True)
    headings, lines = texts(record)
    console.print(as_table(headings, lines, left=2))
    for sentence in text.sentences(record):
        console.print(Text(sentence))
    console.print()
    for line in text.footnotes(record):
        console.print(Text(line, style="dim"))
