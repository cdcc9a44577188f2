"""Standard output as lines and tables, as wide as it is."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from ..sanitize import masked, one_line
from .table import Table

LINE = 160  # columns of a line of text where nobody says how wide the page is
PAGE = 220  # wide enough for nearly any table


class PipedConsole(Console):
    """A console that leaves it to the command what a closed pipe means; rich would end with 1,
    which is a regression's code."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, "nobody reads the output")


@dataclass(frozen=True)
class Screen:
    """Where lines and tables are printed. On a terminal all fits its width, but for tables if
    `wide`; elsewhere, as in a pipe, tables are as wide as they are, and nothing is cut."""

    console: Console
    wide: bool = False

    def print_line(self, line: str | Text = "", style: str = "", *, whole: bool = False) -> None:
        """A line of text, broken where it ends; one that is `whole` only on a terminal."""
        text = Text(one_line(line), style=style) if isinstance(line, str) else line
        text.plain = masked(text.plain)
        if self.console.is_terminal:
            self.console.print(text)
        elif whole:
            self.console.print(text, soft_wrap=True)
        else:
            self.console.print(text, width=LINE)

    def print_warnings(self, warnings: Iterable[str]) -> None:
        for warning in warnings:
            self.print_line(f"! {warning}", "yellow")

    def print_grid(self, table: Table[Any]) -> None:
        """The rows alone."""
        whole = self.wide or not self.console.is_terminal
        width = max(self.console.width, PAGE) if self.wide else self.console.width
        grid = table.to_rich(width, whole=whole)
        grid.plain = masked(grid.plain)
        self.console.print(grid, soft_wrap=True)

    def print_table(self, table: Table[Any]) -> None:
        """What to know first, the rows, what they mean and what they come to."""
        self.print_warnings(table.warnings)
        self.print_grid(table)
        for note in table.notes:
            self.print_line(note, "dim")
        if table.closing:
            self.print_line(table.closing, "bold")


def open_screen(*, wide: bool = False) -> Screen:
    """Standard output. What is no terminal is none with FORCE_COLOR either: it has colours then."""
    own = PipedConsole()
    if sys.stdout is None:
        raise OSError(errno.EBADF, "standard output is closed")
    if sys.stdout.isatty():
        return Screen(own, wide)
    colours: Any = own.color_system
    page = PipedConsole(width=max(PAGE, own.width), force_terminal=False, color_system=colours)
    return Screen(page, wide)
