"""How a child process is started: for a cell of its own, or to watch the GPU."""

from __future__ import annotations

import sys


def python(program: str) -> list[str]:
    """The command that runs `program` in this Python. The folder that the user is in, which may
    hold modules of any name, is not searched."""
    return [sys.executable, "-c", f"import sys; sys.path = [p for p in sys.path if p]; {program}"]
