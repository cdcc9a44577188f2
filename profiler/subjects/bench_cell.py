"""What a bench asks of whatever it measures: to prepare, to run requests, to be counted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...methods.contract.errors import InputError, first_line, text_of
from ...reports.record import schema
from ..meters.clock import Stopwatch, Timing
from ..meters.memory import Peak

Length = tuple[int, int]
"""Queries and keys of an attention of the decoder."""


@dataclass
class Instruments:
    """What a bench lends to those it measures.

    device: the first of those that requests go over, and others: the rest. tokens: whether which
    visual tokens stay is to be saved. allocated: bytes of torch's allocator on each of them, before
    any cell ran. lengths: those at which attention ran in this process.
    """

    device: Any
    watch: Stopwatch
    tokens: bool = False
    allocated: list[int] = field(default_factory=list)
    others: Sequence[Any] = ()
    lengths: set[Length] = field(default_factory=set)

    @property
    def devices(self) -> list[Any]:
        """All devices that requests go over."""
        return [self.device, *self.others]


class BenchCell(ABC):
    """One row in the making: what runs, and what is saved of it.

    What fails raises, and ends the row; what cannot be known is left out, with its reason in
    `saved.missing`.
    """

    saved: schema.Cell
    fewest_warmups = 1

    @property
    def alive(self) -> bool:
        return not self.saved.error

    @property
    def prunes(self) -> bool:
        """Whether it is another thing than what all are compared with."""
        return self.saved.name != "vanilla"

    @abstractmethod
    def prepare(self, tools: Instruments) -> None:
        """Be ready for requests, and see that it can be measured at all; nothing is timed yet."""

    @abstractmethod
    def warm(self, tools: Instruments) -> Timing:
        """One request on the clock, as long as times may still settle."""

    @abstractmethod
    def sample(self, tools: Instruments) -> tuple[Timing, list[str]]:
        """One request on the clock, which must do what the first one did; and why it is suspect."""

    @abstractmethod
    def peak(self, tools: Instruments) -> Peak:
        """The peak memory of one request; what its counts are is saved on the way."""

    @abstractmethod
    def untimed(self) -> None:
        """One request of a pass; it must do what the first one did."""

    def repeat(self) -> None:
        """One more request, which must give what it is to give."""
        self.untimed()

    @abstractmethod
    def flops(self, tools: Instruments) -> None:
        """Save the FLOPs of one request as torch counts them."""

    @abstractmethod
    def activity(self, tools: Instruments) -> None:
        """Save what torch.profiler counts in one request."""

    @abstractmethod
    def lengths(self, tools: Instruments) -> None:
        """Save the first request at a length that never ran in this process."""

    @abstractmethod
    def trace(self, tools: Instruments, path: Path) -> None:
        """Write the Chrome trace of one request."""

    def decisions(self) -> None:
        """Look once more at what it decides, behind all timed requests."""
        return

    def where(self, error: BaseException) -> str:
        """The line of its own code that an error passed through; "" if that is not known."""
        return ""

    def reason(self, error: BaseException) -> str:
        """Why a figure is not there, or the row."""
        said = text_of(error) if isinstance(error, InputError) else first_line(error)
        return said + self.where(error)

    def close(self) -> None:
        """The run is over in this process."""
        return

    def release(self) -> None:
        """Give back what it holds: it has failed, or the run is over."""
        return
