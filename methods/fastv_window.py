"""FastV with the same quota in every window of the picture."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import Request, Rows, Scorer, Segment, View, knob, quotas, register

if TYPE_CHECKING:
    from torch import Tensor, device


@register("fastv-window")
@dataclass(frozen=True)
class FastVWindow(Scorer):
    """FastV's score, but every window of the picture keeps its share: no position bias.

    Windows do not overlap; tiles are windowed one by one; a budget that does not divide evenly
    is spread by largest remainder.

    Paper: https://arxiv.org/abs/2502.11501 (Algorithm 3)

    Departures:
    - Windows at the edge of a tile are smaller where its sides do not divide: a window's quota is
      its share of the budget, by largest remainder, and not one number for all.
    - Under anyres the newline at the end of each row is a column of the grid: windows hold it.
    - The tiles of LLaVA-NeXT are windowed one by one; the paper windows one picture.
    """

    reads = Rows("last")
    launches = 6

    height: int | None = knob(None, "window height in tokens; auto: one of each stays", least=1)
    width: int | None = knob(None, "window width in tokens; auto: as the height", least=1)

    def count(self, request: Request) -> int:
        _ = request.grid  # windows are of every token, or there is no plan
        return super().count(request)

    def score(self, view: View) -> Tensor:
        """1.0 for the best tokens of each window, as many as its quota; 0.0 for the others."""
        budget = self.count(view.request)
        side = max(1, int((view.request.visual / budget) ** 0.5))
        height = self.height or side
        window, quota = _windows(
            view.request.grid,
            height,
            self.width or self.height or side,
            budget,
            view.hidden.device,
        )
        ranked = view.rows[:, 0].argsort(-1, descending=True)
        grouped = window[ranked].argsort(stable=True, dim=-1)
        order = ranked.gather(-1, grouped)  # by window, best first
        kept = quota.expand_as(order)
        return kept.new_zeros(kept.shape).scatter(-1, order, kept)


@functools.lru_cache(maxsize=64)
def _windows(
    segments: tuple[Segment, ...], height: int, width: int, budget: int, where: device
) -> tuple[Tensor, Tensor]:
    """Window of each visual token, int64 [V]; and 1.0 or 0.0 [V]: whether the token that comes
    at this place, when tokens are ordered by window and by falling score, stays."""
    import torch

    window: list[int] = []
    first = 0
    for segment in segments:
        columns = -(-segment.width // width)
        for row in range(segment.height):
            window += [first + row // height * columns + c // width for c in range(segment.width)]
        first += -(-segment.height // height) * columns
    sizes = [0] * first
    for index in window:
        sizes[index] += 1
    quota = quotas(budget, sizes)
    stays = [float(index < quota[w]) for w, size in enumerate(sizes) for index in range(size)]
    return torch.tensor(window, device=where), torch.tensor(stays, device=where)
