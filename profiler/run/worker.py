"""A job as plain data, and the process that does a part of it.

It reads its task from stdin, appends what it measures to the journal, and says nothing.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ...methods.contract.errors import InputError
from ...methods.contract.plugins import load_plugins
from ...reports.record import files
from ...reports.record.base import Struct
from ...reports.record.schema import Settings
from ..workload import Workload

if TYPE_CHECKING:
    from .comparison import Comparison


class Job(Struct):
    """What `tpprof compare` is asked to do, as plain data that another process can be given."""

    methods: list[str]
    model: str | None = None
    device: str | None = None
    dtype: str | None = None
    backend: str = "sdpa"
    workload: dict[str, Any] = msgspec.field(default_factory=dict)
    settings: Settings = msgspec.field(default_factory=Settings)
    command: str = ""

    def comparison(self) -> Comparison:
        """The comparison that this job describes: loads torch and the model."""
        load_plugins(self.settings.plugins)
        from .comparison import Comparison

        return Comparison(
            self.methods,
            model=self.model,
            device=self.device,
            dtype=self.dtype,
            backend=self.backend,
            workload=msgspec.convert(self.workload, Workload, strict=False),
            settings=self.settings,
            command=self.command,
        )

    def calibrated(self) -> Comparison:
        """The comparison, of whose device the peaks are known: measured now if they never were."""
        comparison = self.comparison()
        if comparison.record.peaks is None:
            from ..machine.calibration import calibrate

            device = comparison.model.device
            print(f"calibrating {device}, once: a few seconds", file=sys.stderr)
            comparison.record.peaks = calibrate(device)
        return comparison


class Task(Struct):
    """One cell of a job in one round; without a cell, only the empty record is asked for.

    out: the journal, or where the empty record goes. parent: PID of the process that asks.
    """

    job: Job
    out: str
    parent: int
    cell: int | None = None
    round: int = 0
    turn: int = 0


def main() -> None:
    """Do the task on stdin. Exit code 2 and one line for bad input."""
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    try:
        job = task.job
        comparison = job.calibrated() if task.cell is None else job.comparison()
    except InputError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    path = Path(task.out)
    if task.cell is None:
        path.write_bytes(msgspec.json.encode(comparison.record))
        return

    def wanted() -> bool:
        return os.getppid() == task.parent

    if wanted():  # else the parent was killed, and the journal may be another run's by now
        comparison.adopt(files.load(path))
        comparison.journal = files.Journal(path)
        comparison.run_cell(task.cell, task.round, task.turn, wanted)
