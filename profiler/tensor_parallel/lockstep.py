"""What rank 0 has all ranks do at once, and how it came out on each.

Rank 0 measures as a process alone does; the others do whatever it does with a cell, by the name of
what it does. What is said goes over gloo, apart from the collectives of the model.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from ...methods.contract.errors import InputError, first_line
from ...methods.engine.ranks import Ranks
from ...reports.record.spec import ModelSpec, OptionError

APART = datetime.timedelta(minutes=5)
"""How long one rank may be behind another in a request before it counts as lost."""
IDLE = datetime.timedelta(days=2)
"""How long ranks wait for what rank 0 wants next: it also writes, counts and calibrates."""
Order = tuple[str, int]
"""What is done, and with which cell."""


def rank_device(asked: ModelSpec) -> torch.device:
    """The device of this rank: of GPUs the one of its number. Raises OptionError where there are
    not so many, or transformers would spread the model over others."""
    kind = asked.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cpu":
        if torch.cuda.is_available():
            raise OptionError("device", "cpu: transformers spreads a model over the GPUs here")
        return torch.device("cpu")
    if torch.cuda.device_count() < asked.tensor_parallel:
        there = torch.cuda.device_count()
        raise OptionError(
            "tensor_parallel", f"wants {asked.tensor_parallel} GPUs, and there are {there}"
        )
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]))


class LostRankError(BaseException):
    """A rank no longer answers. Nothing can be measured after it: no failure of one cell."""


class Lockstep:
    """This process among those that torchrun started; see `begun`."""

    def __init__(self, ranks: Ranks, device: torch.device) -> None:
        self.ranks, self.device = ranks, device
        self._orders = dist.new_group(backend="gloo", timeout=IDLE)
        self._outcomes = dist.new_group(backend="gloo", timeout=APART)

    @classmethod
    def begun(cls, device: torch.device) -> Lockstep:
        """Join the other ranks, over NCCL on GPUs and gloo on CPUs."""
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=APART)
        return cls(Ranks(dist.get_rank(), dist.get_world_size()), device)

    @property
    def leads(self) -> bool:
        return self.ranks.rank == 0

    @contextmanager
    def made_together(self) -> Iterator[None]:
        """Make what all ranks need first. Raises, on all, InputError for what is wrong on one."""
        wrong: InputError | None = None
        try:
            yield
        except InputError as error:
            wrong = error
        said = self._answered("" if wrong is None else str(wrong))
        if wrong is not None:
            raise wrong
        others = [f"rank {rank}: {text}" for rank, text in enumerate(said) if text]
        if others:
            raise InputError(others[0])

    @contextmanager
    def together(self, what: str, cell: int) -> Iterator[None]:
        """Do this on all ranks from now on. Raises, behind it, what failed here, or RuntimeError
        for what failed on another rank; LostRankError where one does not answer."""
        if self.leads:
            self._order((what, cell))
        failed: Exception | None = None
        self._answered("")  # all begin at once
        try:
            yield
        except Exception as error:
            failed = error
        said = self._answered("" if failed is None else first_line(failed) or repr(failed))
        if failed is not None:
            raise failed
        others = [f"on rank {rank}: {text}" for rank, text in enumerate(said) if text]
        if others:
            raise RuntimeError(others[0])

    def gathered(self, value: Any) -> list[Any]:
        """What each rank gives, on all ranks."""
        found: list[Any] = [None] * self.ranks.size
        try:
            dist.all_gather_object(found, value, self._outcomes)
        except RuntimeError as error:
            raise LostRankError(
                f"a rank did not answer for {APART.total_seconds():.0f} s ({first_line(error)})"
            ) from error
        return found

    def follow(self, act: Callable[[str, int], None]) -> None:
        """On the other ranks: do what rank 0 does, until it is done."""
        order: list[Order | None] = [None]
        while True:
            dist.broadcast_object_list(order, 0, self._orders)
            if order[0] is None:
                return
            act(*order[0])

    def end(self) -> None:
        """On rank 0: let the others go."""
        self._order(None)

    def _order(self, order: Order | None) -> None:
        try:
            dist.broadcast_object_list([order], 0, self._orders)
        except RuntimeError as error:
            raise LostRankError(f"a rank is gone ({first_line(error)})") from error

    def _answered(self, text: str) -> list[str]:
        return self.gathered(text)
