"""A cell that runs over several ranks: whatever is done with it is done on all of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from ...methods.contract.errors import InputError
from ...reports.record import schema
from ..meters.clock import Timing
from ..meters.memory import Peak
from ..subjects.bench_cell import BenchCell, Instruments
from .lockstep import Lockstep

Result = TypeVar("Result")


class OneDeviceError(InputError):
    """A figure that is read of one device, of a request that runs on several."""


class SpreadCell(BenchCell):
    """A cell of this rank, `own`, which stands at `index` among the cells of each rank."""

    def __init__(self, own: BenchCell, index: int, lockstep: Lockstep) -> None:
        self.own, self.index, self.lockstep = own, index, lockstep
        self.fewest_warmups = own.fewest_warmups

    @property
    def saved(self) -> schema.Cell:
        return self.own.saved

    @saved.setter
    def saved(self, saved: schema.Cell) -> None:
        self.own.saved = saved

    def act(self, what: str, tools: Instruments) -> None:
        """On another rank than the first: do what that does with its cell."""
        with suppress(Exception):  # rank 0 knows, and decides what follows
            getattr(self, what)(*(() if what in ("repeat", "decisions") else (tools,)))

    def prepare(self, tools: Instruments) -> None:
        def ready() -> None:
            warmups = self.lockstep.gathered(self.saved.warmups)[0]
            if not self.lockstep.leads:  # whose record may be one of an earlier run
                self.saved.warmups = warmups
            self.own.prepare(tools)

        self._together("prepare", ready)

    def warm(self, tools: Instruments) -> Timing:
        timing = self._together("warm", lambda: self.own.warm(tools))
        return slowest(self.lockstep.gathered(timing))

    def sample(self, tools: Instruments) -> tuple[Timing, list[str]]:
        timing, marks = self._together("sample", lambda: self.own.sample(tools))
        return slowest(self.lockstep.gathered(timing)), marks

    def peak(self, tools: Instruments) -> Peak:
        peak = self._together("peak", lambda: self.own.peak(tools))
        saved = self.saved
        figures = schema.RankFigures(
            kv_bytes_prefill=saved.kv_bytes_prefill,
            kv_bytes_decode=saved.kv_bytes_decode,
            peak_bytes=peak.allocator if peak.allocator is not None else peak.resident,
        )
        saved.ranks = self.lockstep.gathered(figures)
        saved.kv_bytes_prefill = _summed([rank.kv_bytes_prefill for rank in saved.ranks])
        saved.kv_bytes_decode = _summed([rank.kv_bytes_decode for rank in saved.ranks])
        return peak

    def untimed(self) -> None:
        raise OneDeviceError(
            f"the energy counter is that of one device, and the request runs on "
            f"{self.lockstep.ranks.size}"
        )

    def repeat(self) -> None:
        self._together("repeat", self.own.repeat)

    def decisions(self) -> None:
        self._together("decisions", self.own.decisions)

    def flops(self, tools: Instruments) -> None:
        self._together("flops", lambda: self.own.flops(tools))

    def activity(self, tools: Instruments) -> None:
        self._together("activity", lambda: self.own.activity(tools))

    def lengths(self, tools: Instruments) -> None:
        raise OneDeviceError("not measured over several ranks")

    def trace(self, tools: Instruments, path: Path) -> None:
        with self.lockstep.together("repeat", self.index):
            self.own.trace(tools, path)

    def where(self, error: BaseException) -> str:
        return "" if isinstance(error, OneDeviceError) else self.own.where(error)

    def close(self) -> None:
        self.own.close()

    def release(self) -> None:
        self.own.release()

    def _together(self, what: str, call: Callable[[], Result]) -> Result:
        with self.lockstep.together(what, self.index):
            return call()


def slowest(timings: list[Any]) -> Timing:
    """A request over ranks is over when it is over on the slowest: its timing, and how long each
    rank took."""
    last: Timing = max(timings, key=lambda timing: timing.latency)
    return Timing(last.latency, last.parts, last.host, last.began, _latencies(timings))


def _latencies(timings: list[Timing]) -> tuple[float, ...]:
    return tuple(timing.latency for timing in timings)


def _summed(lists: list[list[int]]) -> list[int]:
    """Layer by layer, over all ranks."""
    return [sum(layer) for layer in zip(*lists, strict=True)]
