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

    def require_same(self, index: Tensor) -> None:
        """Raises RanksApartError, on all ranks, where `index` differs from one to another: in its
        length, its sum, or its sum weighed by place."""
        listed = index.flatten()
        places = torch.arange(1, len(listed) + 1, device=index.device)
        marks = torch.stack([places.sum(), listed.sum(), (listed * places).sum()])
        lowest, highest = marks.clone(), marks.clone()
        dist.all_reduce(lowest, dist.ReduceOp.MIN)
        dist.all_reduce(highest, dist.ReduceOp.MAX)
        if not torch.equal(lowest, highest):
            raise RanksApartError(
                "it keeps other tokens on one rank than on another: a decision must follow from "
                "what it is shown and from view.random(seed=...) alone"
            )
