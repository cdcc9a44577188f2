"""The one clock of tpprof: CUDA events on a GPU, the host's monotonic clock elsewhere.

A stopwatch is told as each part of a request ends; the parts follow one another without a gap.
On a GPU an event is recorded then, and nothing waits until the request is over. It needs torch
alone: it runs in probes too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter, perf_counter_ns, time  # by name: what it times may replace time's
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...reports.record.cell import SpanKey


@dataclass(frozen=True)
class Timing:
    """One timed request. `latency`: seconds on the host's clock, waiting included. `parts`:
    seconds of each part, in the order of their first end; a part that ends twice is summed.
    `host`: seconds until the host had queued each phase (GPU only). `began`: see `now`. `ranks`:
    the latency on each rank, where a request runs over several."""

    latency: float
    parts: dict[SpanKey, float]
    host: dict[str, float]
    began: float
    ranks: tuple[float, ...] = ()

    @property
    def ended(self) -> float:
        return self.began + self.latency


class Stopwatch:
    """Times one request after another on `device`, a torch.device.

    On a GPU it must be the current device (`torch.cuda.device`): events are recorded there.
    `event` makes a CUDA event and `synchronize` waits for the device; tests give their own.
    others: further devices over which the request goes, one after another: whoever times makes the
    one at work the current one, and ends a part on both sides of the step from one to the next.
    Between these two ends no time is counted: the second one is queued behind all that was moved.
    """

    def __init__(
        self,
        device: Any,
        *,
        others: Sequence[Any] = (),
        event: Callable[[], Any] | None = None,
        synchronize: Callable[[], None] | None = None,
        current: Callable[[], int] | None = None,
    ) -> None:
        self._on_gpu = device.type == "cuda"
        self._event = event or _cuda_event
        self._synchronize = synchronize or functools.partial(wait_for, device, *others)
        self._current = (current or _current_gpu) if others else (lambda: 0)
        self._marks: list[tuple[SpanKey, Any, int]] = []
        self._pools: dict[int, list[Any]] = {}
        self._used: dict[int, int] = {}

    def start(self) -> None:
        """Wait for the device, forget what was, and begin."""
        self._synchronize()
        self._marks.clear()
        self._used.clear()
        self._began = perf_counter_ns()
        self._first = self._mark()

    def lap(self, phase: str, part: str, index: int | None = None) -> None:
        """A part of the request has ended."""
        self._marks.append(((phase, part, index), self._mark(), perf_counter_ns()))

    def stop(self) -> Timing:
        """Wait for the device and return what was measured since `start`."""
        self._synchronize()
        latency = (perf_counter_ns() - self._began) * 1e-9
        parts: dict[SpanKey, float] = {}
        host: dict[str, float] = {}
        before, queued = self._first, self._began
        for part, mark, at in self._marks:
            parts[part] = parts.get(part, 0.0) + self._seconds(before, mark)
            host[part[0]] = host.get(part[0], 0.0) + (at - queued) * 1e-9
            before, queued = mark, at
        return Timing(latency, parts, host if self._on_gpu else {}, self._began * 1e-9)

    def _mark(self) -> Any:
        if not self._on_gpu:
            return perf_counter_ns()
        where = self._current()  # an event stays on the device that records it first
        pool, used = self._pools.setdefault(where, []), self._used.get(where, 0)
        if used == len(pool):
            pool.append(self._event())
        self._used[where] = used + 1
        pool[used].record()
        return where, pool[used]

    def _seconds(self, before: Any, after: Any) -> float:
        if not self._on_gpu:
            return float((after - before) * 1e-9)
        (one, begin), (other, end) = before, after
        return float(begin.elapsed_time(end) * 1e-3) if one == other else 0.0


def now() -> float:
    """Seconds on the host's monotonic clock, the same in all processes of the machine (Linux)."""
    return perf_counter()


def unix_time() -> float:
    """Seconds since 1970, for people; no duration is made from it."""
    return time()


def _cuda_event() -> Any:
    import torch

    make: Any = torch.cuda.Event
    return make(enable_timing=True)


def _current_gpu() -> int:
    import torch

    return torch.cuda.current_device()


def wait_for(*devices: Any) -> None:
    """Wait until these devices have done all that was queued; a CPU queues nothing."""
    for device in devices:
        if device.type == "cuda":
            import torch

            torch.cuda.synchronize(device)


@contextmanager
def on_device(device: Any) -> Iterator[None]:
    """Make `device` the current one, so that events and kernels go to it."""
    if device.type != "cuda":
        yield
        return
    import torch

    with torch.cuda.device(device):
        yield
