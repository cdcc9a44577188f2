"""Signals that end a run as Ctrl-C does."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM, or a terminal that is closed: end as Ctrl-C does, with what was measured."""


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP end what runs inside as Ctrl-C does; one that is ignored (nohup) stays.

    Behind the first one no other is heard: what was measured is being saved, and one end is often
    told twice, to a process and to its group.
    """
    stopped = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise Terminated

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [signal.Signals[name] for name in names]
    before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, earlier in before.items():
            if not stopped:
                signal.signal(number, earlier)
