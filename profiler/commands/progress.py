"""The bar that shows how far a run is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ...reports.sanitize import one_line
from ...reports.text.screen import PipedConsole
from ..run import rounds

LONGEST = 120  # characters beside the bar


@contextmanager
def progress() -> Iterator[rounds.Progress]:
    """A bar on stderr, and what tells it how far things are."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    stderr = PipedConsole(file=sys.stderr)
    hidden = not stderr.is_terminal  # where it would leave an empty line, and nothing else
    with Progress(
        *columns, console=stderr, transient=True, auto_refresh=False, disable=hidden
    ) as bar:
        task = bar.add_task("start", total=None)

        def tell(label: str, done: int, total: int) -> None:
            with suppress(OSError):  # of a terminal that is gone: the run goes on
                shown = one_line(label, LONGEST)
                bar.update(task, description=shown, completed=done, total=total, refresh=True)

        yield tell
