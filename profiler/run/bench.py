"""The bench: one process that measures cells. Each figure comes from a pass of its own."""

from __future__ import annotations

import datetime
import functools
import gc
import math
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ...methods.contract.containment import MethodFaultError, contained, location, own_files
from ...methods.contract.errors import InputError, first_line
from ...methods.engine.context import Lap, no_lap
from ...methods.engine.run import Trace, run
from ...methods.engine.runtimes import make_runtime
from ...methods.engine.verify import require_finite
from ...reports.outputs import beside
from ...reports.record import schema
from ..meters import memory, torch_profile
from ..meters.clock import Stopwatch, Timing, now, on_device, unix_time, wait_for
from ..meters.energy import energy_per_request
from ..meters.gpu_sampler import Sampler, throttling
from ..meters.host_waits import HostWaits
from ..meters.nvml import Gpu
from ..models.model import Model
from ..workload import Preparation
from .cells import BenchCell, keep_counts, keep_decisions, require_steady
from .hidden_state import (
    Answer,
    ModelChangedError,
    left_as_found,
    process_left_as_found,
    require_alike,
    require_same,
    require_unchanged,
)
from .kept_tokens import selections
from .new_length import Length, first_at_new_length, lengths

SETTLED = 0.02  # warm-up ends when the last three requests lie this close together
FEWEST_WARMUPS = {"cpu": 1, "cuda": 4}
MOST_WARMUPS = {"cpu": 1, "cuda": 20}
_freezers = 0
COMPILED_WARMUPS = 4  # requests that may compile, capture or recompile


class Bench:
    """A model, a request, the clock, and what watches the device. Use it as a context manager."""

    def __init__(self, model: Model, prepare: Preparation, *, tokens: bool = False) -> None:
        """prepare: of the whole request; a method that has its picture resized gets its own.
        tokens: keep which visual tokens each cell keeps."""
        self.tokens = tokens
        self.model = model
        self.prepare = prepare
        self.device = model.device
        self.watch = Stopwatch(model.device)
        self._lengths: set[Length] = set()
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
        self._allocated = memory.allocated(self.device)
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
            foreign = memory.allocated(self.device) - self._allocated
            kind, eager = self.device.type, cell.runtime.name == "eager"
            fewest = max(FEWEST_WARMUPS[kind], least, 1 if eager else COMPILED_WARMUPS)
            times: list[float] = []
            first = None
            if not cell.saved.warmups:
                first = self._hold_to_plan(cell)
                self._hold_to_itself(cell, first)
            while len(times) < fewest - 1 or not _settled(times, max(MOST_WARMUPS[kind], fewest)):
                times.append(self._timing(cell)[0].latency)
            began = now()
            request = functools.partial(self._untimed, cell)
            own = foreign - cell.runtime.hidden_bytes()
            peak, trace = memory.peak(self.device, request, own)
            times.append(now() - began)
            self._require_answer(trace)
            if first is not None and cell.runtime.name == "graph":
                require_alike(first, trace)
            cell.answer = Answer.of(trace)
            cell.saved.warmups = cell.saved.warmups or times
            cell.saved.memory = schema.Memory(**vars(peak))
            keep_counts(cell, trace, self._preparation(cell))
            self._lengths |= lengths(trace.ledger)
            if self.tokens:
                self._keep_tokens(cell, trace)

    def _keep_tokens(self, cell: BenchCell, trace: Trace) -> None:
        """Save which visual tokens of the record's picture stay."""
        if self._preparation(cell) is not self.prepare:
            cell.saved.missing["tokens"] = "a resized picture has other ones"
            return
        cell.saved.kept = selections(trace, self.prepare.request.visual)

    def _preparation(self, cell: BenchCell) -> Preparation:
        """That of the cell's own request; raises as `Preparation.resized` where there is none."""
        if cell.prepare is None:
            cell.prepare = self.prepare.resized(cell.method)
        return cell.prepare

    def _require_answer(self, trace: Trace) -> None:
        """Behind the clock: what was timed gave an answer that can mean something."""
        if trace.tokens.shape[1] != self.prepare.request.new_tokens:
            raise RuntimeError(f"it gave {trace.tokens.shape[1]} tokens")
        require_finite(trace.logits, "its logits")
        require_finite(trace.step_logits, "its logits of decode")

    def _require_unchanged(self, cell: BenchCell, trace: Trace) -> None:
        """Behind the clock: a timed request gave what the first one gave."""
        now, exact = Answer.of(trace), self.device.type == "cpu"
        if cell.answer is not None:
            require_unchanged(cell.answer, now, exact=exact)
        cell.answer = cell.answer or now

    def repeat(self, cell: BenchCell) -> None:
        """One more request, neither timed nor saved; it must do what the counted one did."""
        if cell.alive:
            with self._kept_alive(cell):
                self._require_answer(self._untimed(cell))

    def settle(self, cell: BenchCell) -> None:
        """One more untimed request, behind the warm-ups of all cells: capturing a graph empties
        torch's allocator, whose memory the others then have to ask for again."""
        if cell.alive and self.device.type == "cuda":
            with self._kept_alive(cell):
                self._timing(cell)

    def sample(self, cell: BenchCell, number: int, turn: int, process: int) -> schema.Sample | None:
        """One timed request; None if it failed, which the cell then says."""
        compiles = cell.runtime.name == "compile"  # which has threads of its own
        with self._kept_alive(cell), process_left_as_found(threads=not compiles):
            before, ran = self._asked(cell), _gave_up(cell)
            timing, trace = self._timing(cell)
            counts = self._asked(cell)
            self._require_answer(trace)
            require_steady(cell, trace)
            self._require_unchanged(cell, trace)
            if _gave_up(cell) != ran:
                raise RuntimeError(f"{cell.runtime.name} gave up late: {_gave_up(cell)}")
            cell.saved.setups = dict(cell.runtime.setups)
            marks = [f"{name} in the window" for name in counts if counts[name] > before[name]]
            return self._sample(cell, timing, marks, number, turn, process)
        return None

    def energy(self, cell: BenchCell) -> None:
        """Joules of a request, in a pass of its own; where unknown, the reason."""
        if self._gpu is None:
            cell.saved.energy = schema.Energy(reason="no GPU: no energy counter is read")
            return
        wait = functools.partial(wait_for, self.device)

        def request() -> None:
            self._untimed(cell, no_lap)
            wait()  # as a timed request does: the device idles while the host prepares the next

        try:
            cell.saved.energy = energy_per_request(self._gpu, request, wait)
        except MethodFaultError as error:
            self._fail(cell, error)
        except Exception as error:
            cell.saved.energy = schema.Energy(reason=_reason(error, cell))

    def activity(self, cell: BenchCell) -> None:
        """What torch.profiler counts. The last pass: once attached, it slows down what follows."""
        with self._told_missing(cell, "activity"):
            counted = torch_profile.count(self.device, functools.partial(self._untimed, cell))
            cell.saved.activity, cell.saved.kernels, cell.saved.phase_kernels = counted

    def flops(self, cell: BenchCell) -> None:
        """FLOPs as torch counts them; what a compiled graph computes it does not see."""
        if cell.runtime.name != "eager" and not cell.runtime.fallback:
            cell.saved.missing["flops"] = f"torch counts no FLOPs under {cell.runtime.name}"
            return
        with self._told_missing(cell, "flops"):
            counted = torch_profile.flops(functools.partial(self._untimed, cell))
            cell.saved.counted_flops = counted.by_phase
            cell.saved.table_flops = counted.tables
            cell.saved.decision_flops = counted.decisions
            cell.saved.uncounted_operators = counted.uncounted
            backend, seen = self.model.backend, " ".join(counted.uncounted)
            if backend.startswith("flash_attention") and "flash" not in seen:
                # FlashAttention-4 launches its kernels past torch's dispatcher.
                cell.saved.uncounted_operators = [*counted.uncounted, backend]

    def lengths(self, cell: BenchCell) -> None:
        """The first request at a length that never ran in this process; where it cannot be had,
        the reason. Whatever a method does with more text, its row stays."""
        try:
            with steady():
                cell.saved.new_length = first_at_new_length(
                    self.model, self._preparation(cell), cell, self.watch, self._lengths
                )
        except Exception as error:
            cell.saved.missing["lengths"] = _reason(error, cell)

    def decisions(self, cell: BenchCell) -> None:
        """Look once more at the method's decisions, behind all timed requests, and at how often the
        host has to wait for them."""
        waits = HostWaits(own_files(cell.method))
        with self._kept_alive(cell):
            with waits:
                self._hold_to_plan(cell)
            cell.saved.host_waits = dict(waits.seen)

    def trace(self, cell: BenchCell, path: Path) -> bool:
        """Write the Chrome trace of one request, which the profiler slows down; where it fails,
        the reason is kept. Whether it was written."""
        try:
            with beside(path) as part:
                torch_profile.export(self.device, functools.partial(self._untimed, cell), part)
        except Exception as error:
            cell.saved.missing["trace"] = _reason(error, cell)
            return False
        return True

    def _hold_to_plan(self, cell: BenchCell) -> Trace:
        """One untimed prefill in which each decision of the method is looked at; eager, for a graph
        or a compiled one would be made for prefill alone."""
        with left_as_found(self.model.module, cell.method), contained():
            trace = self._prefill(cell, verify=True)
        require_finite(trace.logits, "its logits")
        _require_numbers(cell.saved.solved)
        keep_decisions(cell, trace)
        return trace

    def _hold_to_itself(self, cell: BenchCell, first: Trace) -> None:
        """Another prefill, which must give the same."""
        with process_left_as_found(), contained():
            again = self._prefill(cell)
        require_same(first, again)

    def _prefill(self, cell: BenchCell, *, verify: bool = False) -> Trace:
        return run(
            self.model,
            self._preparation(cell)().to(self.device),
            cell.method,
            attention=cell.policy,
            new_tokens=1,
            solved=cell.saved.solved,
            verify=verify,
        )

    def _untimed(self, cell: BenchCell, lap: Lap = no_lap) -> Trace:
        """A request of a pass; the method is held to what it did before. Nothing else runs in it:
        it is counted."""
        with contained():
            trace = self.request(cell, lap)
        require_steady(cell, trace)
        return trace

    def request(self, cell: BenchCell, lap: Lap) -> Trace:
        """One request from picture to last token."""
        inputs = self._preparation(cell)()
        lap("preprocess", "preprocess")
        inputs = inputs.to(self.device)
        lap("transfer", "transfer")
        return run(
            self.model,
            inputs,
            cell.method,
            attention=cell.policy,
            solved=cell.saved.solved,
            lap=lap,
            runtime=cell.runtime,
        )

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
            began=unix_time() - timing.latency,
            latency=timing.latency,
            parts=list(timing.parts.values()),
            host=timing.host,
            marks=marks,
            telemetry=telemetry,
        )

    def _timing(self, cell: BenchCell) -> tuple[Timing, Trace]:
        with contained():
            self.watch.start()
            trace = self.request(cell, self.watch.lap)
            return self.watch.stop(), trace

    def _asked(self, cell: BenchCell) -> dict[str, int]:
        """What must not be asked for in a timed window, and how often it has been so far."""
        return {**memory.allocations(self.device), **cell.runtime.setups}

    def _state(self) -> schema.GpuState | None:
        return self._gpu.state([os.getpid()], has_context=True) if self._gpu else None

    def _fail(self, cell: BenchCell, error: BaseException) -> None:
        said = str(error) if isinstance(error, InputError) else first_line(error)
        cell.saved.error = said + location(error, cell.method)

    @contextmanager
    def _told_missing(self, cell: BenchCell, what: str) -> Iterator[None]:
        """What fails inside is n/a, with the reason; a method that does what none may fails."""
        try:
            yield
        except MethodFaultError as error:
            self._fail(cell, error)
        except Exception as error:
            cell.saved.missing[what] = _reason(error, cell)

    @contextmanager
    def _kept_alive(self, cell: BenchCell) -> Iterator[None]:
        """What fails inside ends this cell, not the run; what it held is given back."""
        try:
            yield
        except (KeyboardInterrupt, ModelChangedError):
            raise
        except BaseException as error:  # a method that asks for the end (SystemExit) fails, too
            self._fail(cell, error)
        if cell.saved.error:
            cell.runtime = make_runtime(cell.runtime.name, self.model)
            gc.collect()
            if self.device.type == "cuda":
                import torch

                with suppress(RuntimeError):  # after a fault of the device; the cell has said so
                    torch.cuda.empty_cache()


def _reason(error: Exception, cell: BenchCell) -> str:
    """Why a figure is not there, with the line of the method's code where it went wrong."""
    return first_line(error) + location(error, cell.method)


def _gave_up(cell: BenchCell) -> str:
    """Why a cell does not run as its runtime's name says."""
    return cell.runtime.fallback or cell.runtime.eager_prefill


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


def _require_numbers(solved: dict[str, float]) -> None:
    """See that what a method solved can be saved; raises MethodFaultError."""
    for key, value in solved.items():
        plain = isinstance(value, (int, float)) and math.isfinite(value)
        if not isinstance(key, str) or not plain:
            raise MethodFaultError(f"it solved {key!r} as {value!r}, which is no finite number")


def _settled(times: list[float], most: int) -> bool:
    last = times[-3:]
    close = len(last) == 3 and max(last) - min(last) <= SETTLED * min(last)
    return close or len(times) >= most - 1


def _load() -> float | None:
    get: Callable[[], Any] | None = getattr(os, "getloadavg", None)
    return float(get()[0]) if get else None
