"""Children that need not import torch again: one process has done so, and forks itself for each.

Each child is a process of its own, with its program, stdin, environment, folder and end; what it
imports of tpprof, of plug-ins and of projects it imports itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from tpprof.profiler import subprocesses

STOPPED = """
from tpprof.profiler.accuracy import worker
class Stopping(worker.JournalSheet):
    def keep(self, *given):
        super().keep(*given)
        raise SystemExit(1)
worker.JournalSheet = Stopping
worker.main()
"""
"""The program of an evaluation that ends behind its first answers."""
SERVER = """
import json, os, sys
import tpprof.profiler.api, tpprof.profiler.gate.counting, tpprof.profiler.run.comparison
import tpprof.profiler.models.load
tpprof.profiler.models.load.load("tiny-llava", device="cpu")
assert len(os.listdir("/proc/self/task")) == 1, "a process with threads cannot be forked safely"
for name in [*sys.modules]:
    if name.partition(".")[0] == "tpprof":
        del sys.modules[name]
given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
base = [path for path in sys.path if path and path not in given]
for line in sys.stdin:
    task = json.loads(line)
    child = os.fork()
    if not child:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    os._exit(0)
os.environ.clear()
os.environ.update(task["environment"])
os.getppid = lambda parent=task["parent"]: parent
os.chdir(task["folder"])
sys.path = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p] + base
for number, (place, flags) in enumerate(task["files"]):
    os.dup2(os.open(place, flags), number)
sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)
exec(compile(task["program"], "<string>", "exec"), {"__name__": "__main__"})
"""


class WarmChildren:
    """Runs `python -c PROGRAM` as `subprocesses` asks for it. Use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.really = folder, subprocesses._run
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> WarmChildren:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait()

    def run(
        self,
        command: Sequence[str],
        stdin: bytes,
        complaints: IO[bytes],
        environment: dict[str, str] | None,
    ) -> int:
        """See `subprocesses._run`, which runs what another Python is asked for."""
        if command[0] != sys.executable:
            return self.really(command, stdin, complaints, environment)
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        asked, told = self.folder / "stdin", self.folder / "stderr"
        asked.write_bytes(stdin)
        task = {
            "program": command[2],
            "environment": dict(os.environ) if environment is None else environment,
            "parent": os.getpid(),
            "folder": os.getcwd(),
            "files": [
                (str(asked), os.O_RDONLY),
                (os.devnull, os.O_WRONLY),
                (str(told), os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
            ],
        }
        self.server.stdin.write(json.dumps(task) + "\n")
        self.server.stdin.flush()
        code = int(self.server.stdout.readline())
        complaints.write(told.read_bytes())
        return code
