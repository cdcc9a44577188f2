"""The bench: one process that measures cells. Each figure comes from a pass of its own."""

from __future__ import annotations

import datetime
import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ...methods.contract.containment import MethodFaultError
from ...reports.outputs import beside
from ...reports.record import schema
from ..meters import process_memory
from ..meters.clock import Stopwatch, Timing, now, on_device, unix_time, wait_for
from ..meters.energy import energy_per_request
from ..meters.gpu_sampler import Sampler, throttling
from ..meters.nvml import Gpu
from ..subjects.bench_cell import BenchCell, Instruments
from ..subjects.callable_cell import CallableCell
from ..tensor_parallel.lockstep import LostRankError
from .hidden_state import ModelChangedError

SETTLED = 0.02  # warm-up ends when the last three requests lie this close together
FEWEST_WARMUPS = {"cpu": 1, "cuda": 4}
MOST_WARMUPS = {"cpu": 1, "cuda": 20}
LONGEST_WARMUP = 5.0  # seconds of requests behind the first, after which no more is asked for
_freezers = 0


class Bench:
    """The clock, and what watches the device. Use it as a context manager."""

    def __init__(self, device: Any, *, others: Sequence[Any] = (), tokens: bool = False) -> None:
        """device: a torch.device. others: those that requests go over behind it, in a pipeline.
        tokens: keep which visual tokens each cell keeps."""
        self.device = device
        watch = Stopwatch(device, others=others)
        self.tools = Instruments(device, watch, tokens, others=others)
        self._gpu: Gpu | None = None
        self._sampler: Sampler | None = None

    def __enter__(self) -> Bench:
        self._stack = ExitStack()
        self._stack.enter_context(on_device(self.device))
        self._stack.enter_context(frozen())
        if self.device.type == "cuda":
            import torch

            uuid = str(torch.cuda.get_device_properties(self.device).uuid)
            self._gpu = self._stack.enter_context(Gpu(uuid))
            self._sampler = self._stack.enter_context(Sampler(uuid))
        self.tools.allocated = [process_memory.allocated(each) for each in self.tools.devices]
        self._began = now()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def joined(self, cell: int | None = None, number: int | None = None) -> schema.Process:
        """This process, as it begins to measure."""
        started = datetime.datetime.fromtimestamp(unix_time(), datetime.timezone.utc)
        return schema.Process(
            pid=os.getpid(),
            started=started.isoformat(timespec="seconds"),
            cell=cell,
            round=number,
            load_before=_load(),
            gpu_before=self._state(),
        )

    def left(self, process: schema.Process) -> schema.Process:
        """The same process, as it ends."""
        process.seconds = now() - self._began
        process.load_after = _load()
        process.gpu_after = self._state()
        return process

    def warm_up(self, cell: BenchCell, least: int = 1) -> None:
        """Run until times settle, and save counts and peak memory; a failure is saved instead."""
        with self._kept_alive(cell):
            kind = self.device.type
            fewest = max(FEWEST_WARMUPS[kind], least, cell.fewest_warmups)
            times: list[float] = []
            cell.prepare(self.tools)
            while len(times) < fewest - 1 or not _settled(times, max(MOST_WARMUPS[kind], fewest)):
                times.append(cell.warm(self.tools).latency)
            began = now()
            peak = cell.peak(self.tools)
            times.append(now() - began)
            cell.saved.warmups = cell.saved.warmups or times
            cell.saved.memory = schema.Memory(**vars(peak))

    def repeat(self, cell: BenchCell) -> None:
        """One more request, neither timed nor saved; it must do what the counted one did."""
        if cell.alive:
            with self._kept_alive(cell):
                cell.repeat()

    def renew(self, cell: CallableCell) -> None:
        """A fresh process for a callable, and requests that warm it up."""
        with self._kept_alive(cell):
            cell.start(self.tools)
            for _ in range(FEWEST_WARMUPS[self.device.type]):
                cell.warm(self.tools)

    def settle(self, cell: BenchCell) -> None:
        """One more untimed request, behind the warm-ups of all cells: capturing a graph empties
        torch's allocator, whose memory the others then have to ask for again."""
        if cell.alive and self.device.type == "cuda":
            with self._kept_alive(cell):
                cell.warm(self.tools)

    def sample(self, cell: BenchCell, number: int, turn: int, process: int) -> schema.Sample | None:
        """One timed request; None if it failed, which the cell then says."""
        with self._kept_alive(cell):
            timing, marks = cell.sample(self.tools)
            return self._sample(cell, timing, marks, number, turn, process)
        return None

    def energy(self, cell: BenchCell) -> None:
        """Joules of a request, in a pass of its own; where unknown, the reason."""
        if self._gpu is None:
            cell.saved.energy = schema.Energy(reason="no GPU: no energy counter is read")
            return
        if self.tools.others:
            count = len(self.tools.devices)
            reason = f"the energy counter is that of one device, and the request runs on {count}"
            cell.saved.energy = schema.Energy(reason=reason)
            return

        def wait() -> None:
            wait_for(self.device)

        def request() -> None:
            cell.untimed()
            wait()  # as a timed request does: the device idles while the host prepares the next

        try:
            cell.saved.energy = energy_per_request(self._gpu, request, wait)
        except MethodFaultError as error:
            self._fail(cell, error)
        except Exception as error:
            cell.saved.energy = schema.Energy(reason=cell.reason(error))

    def activity(self, cell: BenchCell) -> None:
        """What torch.profiler counts. The last pass: once attached, it slows down what follows."""
        with self._told_missing(cell, "activity"):
            cell.activity(self.tools)

    def flops(self, cell: BenchCell) -> None:
        """FLOPs as torch counts them."""
        with self._told_missing(cell, "flops"):
            cell.flops(self.tools)

    def lengths(self, cell: BenchCell) -> None:
        """The first request at a length that never ran in this process; where it cannot be had,
        the reason. Whatever a method does with more text, its row stays."""
        try:
            with steady():
                cell.lengths(self.tools)
        except Exception as error:
            cell.saved.missing["lengths"] = cell.reason(error)

    def decisions(self, cell: BenchCell) -> None:
        """Look once more at the method's decisions, behind all timed requests."""
        with self._kept_alive(cell):
            cell.decisions()

    def trace(self, cell: BenchCell, path: Path) -> bool:
        """Write the Chrome trace of one request, which the profiler slows down; where it fails,
        the reason is kept. Whether it was written."""
        try:
            with beside(path) as part:
                cell.trace(self.tools, part)
        except Exception as error:
            cell.saved.missing["trace"] = cell.reason(error)
            return False
        return True

    def _sample(
        self,
        cell: BenchCell,
        timing: Timing,
        marks: list[str],
        number: int,
        turn: int,
        process: int,
    ) -> schema.Sample:
        names = [schema.Span(phase=p, part=q, index=i) for p, q, i in timing.parts]
        if cell.saved.parts and cell.saved.parts != names:
            raise RuntimeError("its requests do not consist of the same parts")
        cell.saved.parts = names
        telemetry = None
        if self._sampler is not None:
            telemetry = self._sampler.telemetry(timing.began, timing.ended)
            if telemetry is None or not telemetry.readings:
                reason = self._sampler.reason or "no reading fell into some samples"
                cell.saved.missing["telemetry"] = reason
        if self._sampler is not None and telemetry is not None:
            marks += throttling(telemetry, self._sampler.highest_sm_hz)
            marks += [f"process {pid} on the GPU" for pid in telemetry.others]
        return schema.Sample(
            round=number,
            turn=turn,
            process=process,
            began=unix_time() - (now() - timing.began),
            latency=timing.latency,
            parts=list(timing.parts.values()),
            host=timing.host,
            ranks=list(timing.ranks),
            marks=marks,
            telemetry=telemetry,
        )

    def _state(self) -> schema.GpuState | None:
        return self._gpu.state([os.getpid()], has_context=True) if self._gpu else None

    def _fail(self, cell: BenchCell, error: BaseException) -> None:
        cell.saved.error = cell.reason(error)

    @contextmanager
    def _told_missing(self, cell: BenchCell, what: str) -> Iterator[None]:
        """What fails inside is n/a, with the reason; a method that does what none may fails."""
        try:
            yield
        except MethodFaultError as error:
            self._fail(cell, error)
        except Exception as error:
            cell.saved.missing[what] = cell.reason(error)

    @contextmanager
    def _kept_alive(self, cell: BenchCell) -> Iterator[None]:
        """What fails inside ends this cell, not the run; what it held is given back."""
        try:
            yield
        except (KeyboardInterrupt, LostRankError, ModelChangedError):
            raise
        except BaseException as error:  # a method that asks for the end (SystemExit) fails, too
            self._fail(cell, error)
        if cell.saved.error:
            cell.release()
            gc.collect()
            if self.device.type == "cuda":
                import torch

                with suppress(RuntimeError):  # after a fault of the device; the cell has said so
                    torch.cuda.empty_cache()


@contextmanager
def frozen() -> Iterator[None]:
    """What is loaded by now is not looked through again by every collection of garbage."""
    global _freezers
    if (
        _freezers == 0
    ):  # Python 3.12 starts with frozen objects of its own: their count says nothing
        gc.collect()
        gc.freeze()
    _freezers += 1
    try:
        yield
    finally:
        _freezers -= 1
        if _freezers == 0:
            gc.unfreeze()


@contextmanager
def steady() -> Iterator[None]:
    """No garbage collection while the clock runs."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _settled(times: list[float], most: int) -> bool:
    last = times[-3:]
    close = len(last) == 3 and max(last) - min(last) <= SETTLED * min(last)
    return close or len(times) >= most - 1 or sum(times[1:]) >= LONGEST_WARMUP


def _load() -> float | None:
    get: Callable[[], Any] | None = getattr(os, "getloadavg", None)
    return float(get()[0]) if get else None
