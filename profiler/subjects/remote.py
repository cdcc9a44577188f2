"""A callable in a process of its own, which may run another Python: see `probe.serve`."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ...methods.contract.errors import InputError
from ...reports.sanitize import quoted
from ..meters.clock import now
from ..probe.serve import BEGUN, PROTOCOL, QUESTIONS
from ..subprocesses import python
from .bundle import PROGRAM, write_bundle

LONGEST = 600
"""Characters of a failure that are kept."""
STARTING = 60.0
"""Seconds within which a Python is to say that it runs the probe."""
PATIENCE = 1800.0
"""Seconds after which a question that is not answered has failed: it hangs."""
MOST_LINES = 1000
"""That a Python may print before the probe begins."""
MOST_BYTES = 2**26
"""Of one answer."""
SLOWER = 20
"""Times as long as the longest answer before it may take a question at any rate."""


class ProbeError(InputError):
    """The callable, or its process, failed; the message says how."""


class Probe:
    """Answers what a `Worker` answers, by asking one in another process.

    Nothing is started before it is asked to load. Whatever the callable does, this process goes on:
    a probe that dies is a ProbeError.
    """

    def __init__(self, reference: str, executable: str = "") -> None:
        """executable: the Python that runs it; "" for this one."""
        self.reference, self.executable = reference, executable or sys.executable
        self._alone = bool(executable)
        self._process: subprocess.Popen[bytes] | None = None
        self._unread, self._longest = b"", 0.0

    def load(self, name: str, *, inputs: Any = None, **given: Any) -> dict[str, Any]:
        """Start the process and load the callable there; see `Worker.load`. A function that makes
        inputs cannot be sent: it is called once."""
        self.close()
        inputs = inputs() if callable(inputs) else inputs
        self._start()
        self._await_begin()
        self.ask("hello", protocol=PROTOCOL)
        saved = None
        if inputs is not None:
            import torch

            saved = str(self._folder / "inputs.pt")
            torch.save({key: _on_the_host(value) for key, value in inputs.items()}, saved)
        described: dict[str, Any] = self.ask(
            "load", reference=self.reference, name=name, folder=os.getcwd(), inputs=saved, **given
        )
        return described

    def __getattr__(self, name: str) -> Any:
        if name not in QUESTIONS:
            raise AttributeError(name)
        return lambda **given: self.ask(name, **given)

    def ask(self, question: str, **given: Any) -> Any:
        """The answer to a question; raises ProbeError where there is none."""
        process = self._process
        if process is None or process.stdin is None:
            raise ProbeError("its process has ended")
        try:
            process.stdin.write(json.dumps({"ask": question, **given}).encode() + b"\n")
            process.stdin.flush()
        except OSError:
            raise ProbeError(self._end()) from None
        began = now()
        answer = self._read(self._line(max(PATIENCE, SLOWER * self._longest)))
        self._longest = max(self._longest, now() - began)
        return answer

    def close(self) -> None:
        """End the process, if it runs."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)  # and what it started
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process = None
        self._complaints.close()
        self._temporary.cleanup()

    def _start(self) -> None:
        """Raises InputError where the Python cannot be started."""
        self._unread, self._longest = b"", 0.0
        self._temporary = tempfile.TemporaryDirectory(prefix="tpprof-probe-")
        self._folder = Path(self._temporary.name)
        bundle = self._folder / "probe.zip"
        write_bundle(bundle)
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as it runs)
        program = f"import sys\nsys.path.append({str(bundle)!r})\n{PROGRAM}"
        ours = ("PYTHONPATH", "PYTHONHOME") if self._alone else ()
        own = {name: value for name, value in os.environ.items() if name not in ours}
        try:
            self._process = subprocess.Popen(
                python(program, self.executable),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._complaints,
                env=own,
                start_new_session=True,  # Ctrl-C is for this process, which then ends it
            )
        except OSError as error:
            self._complaints.close()
            self._temporary.cleanup()
            reason = error.strerror or error
            raise InputError(f"{self.executable} cannot be started ({reason})") from error

    def _await_begin(self) -> None:
        """Read on to the line with which the probe begins: before it stands whatever this Python
        prints as it starts. Raises ProbeError where none comes."""
        lines: list[str] = []
        ends = now() + STARTING
        while not (lines and lines[-1].endswith(BEGUN)):
            try:
                if len(lines) > MOST_LINES:
                    raise ProbeError("it writes on and on")
                lines.append(self._line(ends - now()).decode(errors="replace").strip())
            except ProbeError as error:
                self.close()
                wrote = f" (it wrote {quoted(lines[0])})" if lines else ""
                raise ProbeError(
                    f"{self.executable} does not run the probe{wrote}: {error}"
                ) from None

    def _line(self, seconds: float) -> bytes:
        """The next line that the probe writes. It may be gone while something that it started still
        holds the pipe. Raises ProbeError where it ends, or takes longer than so many seconds."""
        process, begun = self._process, now()
        assert process is not None
        assert process.stdout is not None
        while b"\n" not in self._unread:
            if now() - begun > seconds:
                self.close()
                raise ProbeError(f"no answer for {max(seconds, 0):.0f} s: it hangs")
            if not select.select([process.stdout], [], [], 1.0)[0]:
                if process.poll() is not None:
                    raise ProbeError(self._end())
                continue
            more = os.read(process.stdout.fileno(), 2**16)
            if not more:
                raise ProbeError(self._end())
            self._unread += more
            if len(self._unread) > MOST_BYTES:
                raise ProbeError(self._unreadable())
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _read(self, line: bytes) -> Any:
        try:
            said = json.loads(line)
            if "answer" in said:
                return said["answer"]
            failed = str(said["failed"])
        except (ValueError, TypeError, KeyError):
            raise ProbeError(self._unreadable()) from None
        raise ProbeError(failed[:LONGEST])

    def _unreadable(self) -> str:
        self.close()
        return "its answers cannot be read: it writes where they go"

    def _end(self) -> str:
        """How the process ended."""
        process = self._process
        assert process is not None
        try:
            code = process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return "its process answers no more"
        self._complaints.seek(0, os.SEEK_END)
        self._complaints.seek(max(0, self._complaints.tell() - 10_000))
        lines = self._complaints.read().decode(errors="replace").strip().splitlines()
        self.close()
        last = f": {lines[-1].strip()[:200]}" if lines and code > 0 else ""
        if code < 0:
            name = signal.Signals(-code).name
            hint = " (out of memory?)" if name == "SIGKILL" else ""
            return f"its process was ended by {name}{hint}"
        return f"its process ended with exit code {code}{last}"


def _on_the_host(value: Any) -> Any:
    """A tensor as it is saved for another process, which has no device of this one."""
    return value.detach().cpu() if hasattr(value, "detach") else value
