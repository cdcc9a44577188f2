"""Tensor parallelism: the attention heads of each decoder layer, spread over processes.

Each rank runs the same request over heads of its own. What a method is shown of attention is that
of all heads: it is put together before any decision, so that all ranks decide alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


class RanksApartError(RuntimeError):
    """A decision that is not the same on all ranks: they would run different requests."""

    def __init__(self) -> None:
        super().__init__(
            "it keeps other tokens on one rank than on another: a decision must follow from what "
            "it is shown and from view.random(seed=...) alone"
        )


@dataclass(frozen=True)
class Ranks:
    """The processes that share a decoder, as torch.distributed has them: equal shares of the heads,
    of queries and of keys, in the order of the ranks.

    rank: of this process. size: how many there are.
    """

    rank: int
    size: int

    def mean(self, values: Tensor) -> Tensor:
        """The mean over ranks of `values`, each a mean over its own heads; the same bits on all."""
        whole = values.contiguous()
        dist.all_reduce(whole)
        return whole / self.size

    def gathered(self, values: Tensor, dim: int) -> Tensor:
        """The values of all heads, along `dim`."""
        parts = [torch.empty_like(values.contiguous()) for _ in range(self.size)]
        dist.all_gather(parts, values.contiguous())
        return torch.cat(parts, dim)

    def require_same(
        self, index: Tensor | None, device: torch.device, *, failed: bool = False
    ) -> None:
        """Raises RanksApartError where not all ranks decided alike; each must call it. index: of
        the tokens that stay, int64; None for all. failed: this rank made no decision, and raises
        why by itself."""
        listed = torch.zeros(0, dtype=torch.int64) if index is None else index.flatten()
        kind = -2 if failed else -1 if index is None else len(listed)
        same = self._equal(torch.tensor([kind], device=device))
        if same and kind > 0:
            same = self._equal(listed)
        if not same and not failed:
            raise RanksApartError

    def _equal(self, values: Tensor) -> bool:
        """Whether they are the same on all ranks, on each of which there are as many."""
        lowest, highest = values.clone(), values.clone()
        dist.all_reduce(lowest, dist.ReduceOp.MIN)
        dist.all_reduce(highest, dist.ReduceOp.MAX)
        return torch.equal(lowest, highest)
