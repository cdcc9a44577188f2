"""A command that goes on in a child process, because what it runs may end the process.

A method that calls `os._exit(0)` would else end the command as if all were well. A process is
forked only where torch is not loaded yet and no other thread runs, as in the command itself: a
program that calls it goes on alone.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

import typer

from ...reports.sanitize import say

DONE = b"done"
ENDED = 1
"""Exit code of a command whose child ended as if all were well, and was not done."""
OUTSIDE = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGKILL")
"""Signals that somebody else sends: a user, a scheduler, or a system without memory."""
PLUGIN_ENDED = "a plug-in ended the process before the result was shown"


def in_a_child(lost: Callable[[], str], kept: Callable[[], str] = lambda: "") -> Callable[[], None]:
    """Go on in a child process, where this returns: call what it returns when all is done.

    The process that was there waits and ends with the child's code; with ENDED and the line that
    `lost` gives where the child ends with 0 and was not done, or by a fault of its own; what `kept`
    gives follows where a signal from outside ended it. Where a process cannot be forked safely, or
    a system cannot tell who sent a signal, it goes on alone.
    """
    known = hasattr(os, "fork") and hasattr(signal, "sigwaitinfo")
    if not known or "torch" in sys.modules or threading.active_count() > 1:
        return _nothing
    reading, writing = os.pipe()
    if sys.stdout is not None:
        sys.stdout.flush()
    awaited = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    parent = os.getpid()
    child = os.fork()
    if child:
        os.close(writing)
        _end_as(_wait(child, awaited), reading, lost, kept)
    os.close(reading)
    _die_with(parent)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def done() -> None:
        if sys.stdout is not None:
            sys.stdout.flush()
        os.write(writing, DONE)

    return done


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """A command that loads plug-ins, if any are named, in a child process: one that ends it does
    not end the command as if all were well."""

    @functools.wraps(command)
    def run(*given: Any, **named: Any) -> None:
        typed = named.get("typed")
        plugins = named.get("plugin") or (typed is not None and typed.values.get("plugin"))
        done = in_a_child(lambda: PLUGIN_ENDED) if plugins else _nothing
        try:
            command(*given, **named)
        except typer.Exit:
            done()
            raise
        done()

    return run


def _nothing() -> None:
    return None


def _wait(child: int, awaited: set[signal.Signals]) -> int:
    """The exit code of the child, negative for a signal. Signals that this process alone gets go to
    it, as that of a terminal which is gone; what is typed there it has had already."""
    while True:
        found = signal.sigwaitinfo(awaited)
        if found.si_signo != signal.SIGCHLD:
            if found.si_pid or found.si_signo == signal.SIGHUP:  # not by the kernel to both
                os.kill(child, found.si_signo)
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)


def _end_as(code: int, reading: int, lost: Callable[[], str], kept: Callable[[], str]) -> NoReturn:
    os.set_blocking(reading, False)
    try:
        told = os.read(reading, len(DONE))
    except BlockingIOError:  # a process that the child left behind holds the pipe
        told = b""
    if code == 0 and told != DONE:
        say(f"tpprof: {lost()}")
        code = ENDED
    if code < 0:
        name = signal.Signals(-code).name
        if name in OUTSIDE:
            hint = " (out of memory?)" if name == "SIGKILL" else ""
            say(f"tpprof: ended by {name}{hint} before all was done{kept()}")
        else:
            say(f"tpprof: what it ran was ended by {name}; {lost()}")
        code = 128 - code
    os._exit(code)


def _die_with(parent: int) -> None:
    """Let the kernel end this process as soon as its parent has ended."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(ENDED)
