"""A command that a signal from outside ends, and one that is ended by what it runs."""

from __future__ import annotations

import subprocess
import sys

import pytest

COMMAND = """
import os, signal
from tpprof.profiler.commands.supervised import in_a_child
done = in_a_child(lambda: "a plug-in ended it", lambda: "; kept: here")
os.kill({target}, signal.{name})
signal.pause()
"""


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("SIGTERM", "os.getppid()"),  # which hands it on
        ("SIGTERM", "os.getpid()"),
        ("SIGKILL", "os.getpid()"),
        ("SIGSEGV", "os.getpid()"),
    ],
)
def test_nobody_is_blamed_for_a_signal_from_outside(name: str, target: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMMAND.format(target=target, name=name)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    told = {
        "SIGTERM": (143, "tpprof: ended by SIGTERM before all was done; kept: here\n"),
        "SIGKILL": (
            137,
            "tpprof: ended by SIGKILL (out of memory?) before all was done; kept: here\n",
        ),
        "SIGSEGV": (139, "tpprof: what it ran was ended by SIGSEGV; a plug-in ended it\n"),
    }
    assert (done.returncode, done.stderr) == told[name]
