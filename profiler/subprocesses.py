"""How a child process is started: for a cell of its own, for a gate, or to watch the GPU."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence


def python(program: str, executable: str = sys.executable) -> list[str]:
    """The command that runs `program` in this Python, or another. The folder that the user is in,
    which may hold modules of any name, is not searched."""
    return [executable, "-c", f"import sys; sys.path = [p for p in sys.path if p]; {program}"]


def finish(
    command: Sequence[str], stdin: bytes, environment: dict[str, str] | None = None
) -> tuple[int, str]:
    """Run a command to its end with this on its stdin: its code, and "" or how it failed."""
    with tempfile.TemporaryFile() as complaints:
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
        complaints.seek(0)
        lines = complaints.read().decode(errors="replace").strip().splitlines()
    return process.returncode, _reason(process.returncode, lines[-1] if lines else "")


def _reason(code: int, last_line: str) -> str:
    if code == 0:
        return ""
    if code < 0:
        killer = signal.Signals(-code).name
        hint = " (out of memory?)" if killer == "SIGKILL" else ""
        return f"process ended by {killer}{hint}"
    return last_line or f"process ended with exit code {code}"
