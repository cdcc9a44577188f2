"""The record on a terminal: header, what to know first, table, what it says."""

from __future__ import annotations

from ..analysis.summary import rows
from ..record.schema import Record
from . import sentences
from .phases import phases_table
from .screen import Screen
from .table7 import table7


def print_record(record: Record, screen: Screen, *, by_phase: bool = False) -> None:
    """Print the table and what it says; `by_phase` adds one row for every phase of every cell."""
    listed = rows(record)
    table = table7(record, listed)
    for line in sentences.header(record):
        screen.print_line(line, whole=True)
    for line in sentences.bounds(record):
        screen.print_line(line)
    screen.print_warnings(table.warnings)
    screen.print_grid(table)
    if by_phase:
        screen.print_grid(phases_table(record, warnings=()))
    for sentence in sentences.sentences(record, listed):
        screen.print_line(sentence)
    screen.print_line()
    for line in sentences.footnotes(record, listed):
        screen.print_line(line, "dim")
    screen.print_line()
    screen.print_line(table.closing, "bold")
