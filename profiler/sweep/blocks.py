"""One block of a sweep, measured in a process of its own."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ...reports.record import files
from ...reports.record.base import RecordError
from ..subprocesses import python, reason_of
from .worker import BlockStep, BlockTask

Measure = Callable[[BlockTask, Callable[[BlockStep], None]], tuple[int, str]]
"""Does one block and is told its steps: the exit code, and "" or how it failed."""
Indexed = tuple[int, BlockTask]
"""A block, and its index in the grid."""


@dataclass(frozen=True)
class BlockEnded:
    """A block that has ended: its exit code, and "" or how it failed."""

    index: int
    code: int
    failed: str


def in_a_process(task: BlockTask, told: Callable[[BlockStep], None]) -> tuple[int, str]:
    """Measure a block in a fresh process. Where this one is stopped, so is that one, as a
    comparison is: what it has measured is saved."""
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            python("from tpprof.profiler.sweep.worker import main; main()"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            start_new_session=True,  # Ctrl-C comes from here alone, once
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(msgspec.json.encode(task))
                process.stdin.close()
            for line in process.stdout:
                with contextlib.suppress(msgspec.MsgspecError):  # what a method prints is no step
                    told(msgspec.json.decode(line, type=BlockStep))
            process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            process.stdout.close()
        complaints.seek(0)
        lines = complaints.read().decode(errors="replace").strip().splitlines()
    code = process.returncode
    if code == 1:  # cells that failed say so themselves
        return code, "" if _ended(Path(task.out)) else reason_of(code, lines[-1] if lines else "")
    return code, reason_of(code, lines[-1] if lines else "")


def _ended(path: Path) -> bool:
    try:
        return files.load_run(path).complete
    except RecordError:
        return False
