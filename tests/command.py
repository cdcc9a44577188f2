"""The command, as a user runs it: a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RUN = [sys.executable, "-c", "from tpprof.profiler.cli import main; main()"]
SMALL = ["--model", "tiny-llava", "--device", "cpu", "--visual-tokens", "64"]
"""What takes seconds."""
PLUGIN = Path(__file__).parent / "extra_plugin.py"


def tpprof(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command to its end, in a folder."""
    done = subprocess.run([*RUN, *arguments], capture_output=True, text=True, cwd=cwd)
    assert "Traceback" not in done.stderr, done.stderr
    return done
