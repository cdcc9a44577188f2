"""How a child process is started: for a cell of its own, for a gate, or to watch the GPU."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec

UNWRITABLE = 74
"""Exit code of a child that could not write what it found, which is no failure of what it ran
(EX_IOERR)."""
SILENT = -1000
"""In the place of an exit code: the process ended as if all were well, and gave no answer."""
_BEGIN = """\
import os, sys
sys.path = [p for p in sys.path if p]
try:
    import ctypes
    ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL: Linux alone has it
except Exception:
    pass
if os.getppid() != {parent}:
    os._exit(1)
"""
"""The child goes when its parent does, however that ends."""
_CLEAN_UP = "import shutil, sys; sys.stdin.buffer.read(); shutil.rmtree(sys.argv[1], True)"


def dies_with_its_parent() -> None:
    """This process goes when its parent does, however that ends, where the system has such a
    thing."""
    with contextlib.suppress(Exception):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG, of Linux alone


def python(program: str, executable: str = sys.executable) -> list[str]:
    """The command that runs `program` in this Python, or another, as a child of this process. The
    folder that the user is in, which may hold modules of any name, is not searched."""
    return [executable, "-c", _BEGIN.format(parent=os.getpid()) + program]


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that goes when it is no longer needed, and also when this process is killed: a small
    one that waits for its end removes it then."""
    folder = Path(tempfile.mkdtemp(prefix="tpprof-")).resolve()
    command = [sys.executable, "-I", "-S", "-c", _CLEAN_UP, str(folder)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # what ends this process's group does not reach it
    ):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def finish(
    command: Sequence[str], stdin: bytes, environment: dict[str, str] | None = None
) -> tuple[int, str]:
    """Run a command to its end with this on its stdin: its code, and "" or how it failed."""
    with tempfile.TemporaryFile() as complaints:
        code = _run(command, stdin, complaints, environment)
        complaints.seek(0)
        lines = complaints.read().decode(errors="replace").strip().splitlines()
    return code, reason_of(code, lines[-1] if lines else "")


def ask(
    command: Sequence[str], task: Mapping[str, Any], environment: dict[str, str] | None = None
) -> tuple[int, str, bytes]:
    """Run a command that takes a task as JSON on its stdin: its code, "" or how it failed, and its
    answer.

    It is told a file for the answer (`out`) and a token that nobody else knows. An answer counts if
    the process ends with 0 and the file has the token, and as many bytes as it says
    (`gate.probe.answering` writes it): what a method prints, what it leaves in files and how it
    ends the process are no answer.
    """
    token = secrets.token_hex(16)
    with temporary_folder() as folder:
        out = folder / "answer"
        content = msgspec.json.encode({**task, "out": str(out), "token": token})
        code, failure = finish(command, content, environment)
        if code:
            return code, failure, b""
        try:
            first, _, answer = out.read_bytes().partition(b"\n")
        except OSError:
            first, answer = b"", b""
    if first != f"{token} {len(answer)}".encode():
        return SILENT, "what it ran ended the process (exit code 0) before it gave its result", b""
    return 0, "", answer


def _run(
    command: Sequence[str],
    stdin: bytes,
    complaints: IO[bytes],
    environment: dict[str, str] | None,
) -> int:
    """The exit code of a command, whose stderr goes into a file."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=complaints,
        env=environment,
    )
    try:
        process.communicate(stdin)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return process.returncode


def reason_of(code: int, last_line: str) -> str:
    """Why a process failed, by its exit code and the last line that it said; "" if it did not."""
    if code == 0:
        return ""
    if code < 0:
        killer = signal.Signals(-code).name
        hint = " (out of memory?)" if killer == "SIGKILL" else ""
        return f"process ended by {killer}{hint}"
    return last_line or f"process ended with exit code {code}"
