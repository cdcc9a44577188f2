"""The command, as a user runs it: a process of its own."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tpprof.profiler import cli

RUN = [sys.executable, "-c", "from tpprof.profiler.cli import main; main()"]
_NAMED = (
    []
    if entry_points(group="pytest11", name="tpprof")
    else ["-p", "tpprof.profiler.gate.pytest_plugin"]
)
PYTEST = [sys.executable, "-m", "pytest", "-q", *_NAMED]
"""pytest with tpprof's plug-in, which it finds by itself only where tpprof is installed."""
SMALL = ["--model", "tiny-llava", "--device", "cpu", "--visual-tokens", "64"]
"""What takes seconds."""
PLUGIN = Path(__file__).parent / "extra_plugin.py"


def tpprof(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command to its end, in a folder."""
    done = subprocess.run([*RUN, *arguments], capture_output=True, text=True, cwd=cwd)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def in_this_process(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The same, in this process, which has loaded what takes seconds."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patched,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patched.chdir(cwd)
        patched.setattr(sys, "argv", ["tpprof", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    code = ended.value.code
    assert isinstance(code, int)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def on_a_terminal(arguments: list[str], folder: Path, *, columns: int) -> list[str]:
    """What the command prints on a terminal of so many columns, line by line, without colours."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    around = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    with subprocess.Popen(
        [*RUN, *arguments],
        cwd=folder,
        env={**around, "TERM": "xterm"},
        stdin=its,
        stdout=its,
        stderr=subprocess.DEVNULL,
    ):
        os.close(its)
        content = b""
        while part := _read(ours):
            content += part
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;]*m", "", content.decode()).splitlines()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 2**16)
    except OSError:  # how Linux says that nobody writes to it any more
        return b""
