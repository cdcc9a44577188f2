"""Samples NVML from another process, so that the timed one does no NVML work.

`main` is what that process runs: a JSON line per reading, until its parent is gone, its standard
input closes or it is terminated. It imports no torch.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from ...reports.record.schema import Telemetry
from ..subprocesses import python
from .clock import now
from .nvml import Gpu

OTHERS = 1.0
"""Seconds between looks for other processes on the GPU: the driver takes longer over them."""
SHORTEST = 0.010
"""Seconds between readings: more often disturbs what is measured, and shows nothing new."""


FELL = 0.97
"""A clock below this share of the highest one seen has fallen."""


class GpuReading(msgspec.Struct):
    """One line of the sampler. at: seconds of `clock.now`, which all processes of a machine share.
    Clocks in Hz, temperature in degrees Celsius, power in W; None where unknown. others: PIDs of
    other processes on the GPU, when last looked for."""

    at: float
    sm: float | None = None
    memory: float | None = None
    temperature: float | None = None
    power: float | None = None
    throttled: list[str] | None = None
    others: list[int] = []


class Sampler:
    """Reads the GPU with this UUID (see Gpu) every `interval` seconds, while the context lasts.

    Entering waits for the first reading, `patience` seconds at most: starting a process costs time
    that must not fall into a sample. A sampler that cannot start raises nothing, `reason` says
    why. The process writes to a file, as a pipe would have to be emptied while timing. command:
    what to run instead of this module. Raises ValueError for an interval below 0.010 s.
    """

    def __init__(
        self,
        uuid: str | None,
        interval: float = 0.05,
        *,
        command: Sequence[str] | None = None,
        patience: float = 30.0,
    ) -> None:
        if not interval >= SHORTEST:
            raise ValueError(f"interval is {interval} s; at least {SHORTEST} s between readings")
        self.reason = "not started" if uuid is not None else "no NVIDIA GPU"
        self._uuid = uuid
        self._interval = interval
        self._command = command
        self._patience = patience
        self._readings: list[GpuReading] = []
        self._unfinished = b""
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: BinaryIO | None = None

    def __enter__(self) -> Sampler:
        if self._uuid is None:
            return self
        try:
            self._start(self._uuid)
        except OSError as error:
            self.reason = f"the sampler could not be started: {error}"
            self.close()
            return self
        self.reason = "the sampler gave no reading"
        deadline = now() + self._patience
        while not self._readings and self._running() and now() < deadline:
            time.sleep(0.005)
            self._read()
        self._read()
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process. What it read until then can still be asked for."""
        if self._process is not None:
            process, self._process = self._process, None
            if process.stdin is not None:
                process.stdin.close()
            process.terminate()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self._read()
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def telemetry(self, began: float, ended: float) -> Telemetry | None:
        """What the GPU did from `began` to `ended`, both times of `clock.now`.

        Where no reading fell between, the nearest one stands in, if it is at most one interval
        away. None where the sampler has given no reading at all, `reason` says why.
        """
        self._read()
        if not self._readings:
            return None
        first = bisect_left(self._readings, began, key=_at)
        last = bisect_right(self._readings, ended, key=_at)
        inside = self._readings[first:last]
        if not inside:
            around = self._readings[max(first - 1, 0) : last + 1]
            away, nearest = min(
                ((max(began - reading.at, reading.at - ended), reading) for reading in around),
                key=lambda pair: pair[0],
            )
            inside = [nearest] if away <= self._interval else []
        return _summary(inside)

    @property
    def highest_sm_hz(self) -> float | None:
        """The highest SM clock of all readings so far, in Hz; None where none is known."""
        return _of(max, [reading.sm for reading in self._readings])

    def _start(self, uuid: str) -> None:
        program = (
            f"from tpprof.profiler.meters.gpu_sampler import main; main({uuid!r}, {self._interval})"
        )
        # The folder goes at once and the open file lives on: nothing is left, however we end.
        with tempfile.TemporaryDirectory(prefix="tpprof-", ignore_cleanup_errors=True) as folder:
            path = Path(folder) / "readings"
            with path.open("wb") as file:
                # Opened twice: through a shared handle our reading would move its writing.
                self._reader = path.open("rb")
                self._process = subprocess.Popen(
                    self._command or python(program),
                    stdin=subprocess.PIPE,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    # Ctrl-C is for the parent to handle; the sampler goes when the parent does.
                    start_new_session=True,
                )

    def _running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _read(self) -> None:
        """Take in the lines that were finished since; a line that is no reading is a complaint."""
        if self._reader is None:
            return
        *lines, self._unfinished = (self._unfinished + self._reader.read()).split(b"\n")
        for line in lines:
            try:
                self._readings.append(msgspec.json.decode(line, type=GpuReading))
                self.reason = ""
            except msgspec.MsgspecError:
                if line.strip():
                    self.reason = line.decode(errors="replace").strip()


def throttling(seen: Telemetry, highest_hz: float | None) -> list[str]:
    """Marks of a sample in which the driver named reasons to hold clocks back: one for each, where
    they really fell. The driver names a power cap where it shaves off 1 % for a moment.

    They fell where the sample's median SM clock lies below FELL times `highest_hz`, the highest
    clock that was seen in this process, warm-ups included. Where no clock is known, as on a slice
    of a GPU, the mark says so.
    """
    clock = seen.sm_clock_hz
    if clock is None or highest_hz is None:
        return [f"throttled ({reason}), by how much is unknown" for reason in seen.throttled]
    return [f"throttled ({reason})" for reason in seen.throttled if clock < FELL * highest_hz]


def _at(reading: GpuReading) -> float:
    return reading.at


def _summary(readings: list[GpuReading]) -> Telemetry:
    sm = [reading.sm for reading in readings if reading.sm is not None]
    return Telemetry(
        readings=len(readings),
        sm_clock_hz=_of(statistics.median, sm),
        sm_clock_lowest_hz=_of(min, sm),
        memory_clock_hz=_of(statistics.median, [reading.memory for reading in readings]),
        temperature_celsius=_of(max, [reading.temperature for reading in readings]),
        power_watts=_of(statistics.fmean, [reading.power for reading in readings]),
        throttled=sorted({name for reading in readings for name in reading.throttled or []}),
        others=sorted({pid for reading in readings for pid in reading.others}),
    )


def _of(function: Callable[[list[float]], float], values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return function(known) if known else None


def main(uuid: str, interval: float) -> None:
    """Print a reading every `interval` seconds until the parent has gone."""
    with contextlib.suppress(OSError, KeyboardInterrupt):
        _watch(uuid, interval)


def _watch(uuid: str, interval: float) -> None:
    parent = os.getppid()
    seldom, others = max(1, round(OTHERS / interval)), []
    orphaned = threading.Event()
    threading.Thread(target=_await_end_of_input, args=(orphaned,), daemon=True).start()
    with Gpu(uuid) as gpu:
        if gpu.reason:
            sys.exit(gpu.reason)
        for number in itertools.count():
            if os.getppid() != parent:
                return
            at = now()
            state = gpu.reading()
            if number % seldom == 0:
                found = gpu.state([parent], has_context=True).others
                others = [process.pid for process in found or []]
            reading = GpuReading(
                at=at,
                sm=state.sm_clock_hz,
                memory=state.memory_clock_hz,
                temperature=state.temperature_celsius,
                power=state.power_watts,
                throttled=state.throttled,
                others=others,
            )
            os.write(1, msgspec.json.encode(reading) + b"\n")  # one write, so never half a line
            if orphaned.wait(interval):
                return


def _await_end_of_input(ended: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 1024):
            pass
    ended.set()
