"""How far a run is: a bar on a terminal; in a log, as that of a CI job, a line now and then."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ...reports.sanitize import one_line, say
from ...reports.text.screen import PipedConsole
from ..run import rounds

LONGEST = 120  # characters beside the bar
EVERY = 30.0
"""Seconds between two lines where there is no terminal."""


@contextmanager
def progress() -> Iterator[rounds.Progress]:
    """What tells how far things are, on stderr. It says so when it is called, and never in between:
    what is measured meanwhile is left alone."""
    stderr = PipedConsole(file=sys.stderr)
    if not stderr.is_terminal:
        yield _lines()
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=stderr, transient=True, auto_refresh=False) as bar:
        task = bar.add_task("start", total=None)

        def tell(label: str, done: int, total: int) -> None:
            with suppress(OSError):  # of a terminal that is gone: the run goes on
                shown = one_line(label, LONGEST)
                bar.update(task, description=shown, completed=done, total=total, refresh=True)

        yield tell


def _lines(clock: Callable[[], float] = time.monotonic) -> rounds.Progress:
    """Lines, so far apart that a log stays short; a short run says nothing."""
    began = last = clock()

    def tell(label: str, done: int, total: int) -> None:
        nonlocal last
        if clock() - last >= EVERY:
            last = clock()
            say(f"{one_line(label, LONGEST)} ({done} of {total}), {last - began:.0f} s so far")

    return tell


@contextmanager
def heartbeat(label: str) -> Iterator[None]:
    """Say what goes on while this process only waits for another one: on a terminal at once, and
    everywhere now and then."""
    began, ended = time.monotonic(), threading.Event()
    shown = one_line(label, LONGEST)

    def beat() -> None:
        while not ended.wait(EVERY):
            say(f"{shown}, {time.monotonic() - began:.0f} s so far")

    if sys.stderr is not None and sys.stderr.isatty():
        say(shown)
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
