"""Average pooling, the other baseline that the paper found hard to beat."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from . import Budget, Entering, Keep, Method, Plan, Request, Segment, Stage, View, knob, register

if TYPE_CHECKING:
    from torch import Tensor


@register("pooling")
@dataclass(frozen=True)
class Pooling(Method):
    """On entering one layer, replace every a x a window of visual tokens by one token.

    The new token stands at the position of the window's token with the largest L1 norm. Tiles
    are pooled one by one; windows at the edge may be smaller.

    Paper: https://arxiv.org/abs/2502.11501 (Algorithm 4)

    Departures:
    - By default a new token is the mean of its window; the last line of Algorithm 4 takes the
      window's token of largest L1 norm: feature=argmax-l1.
    - The paper pools at the second layer of the language model; `layer` is FastV's, 2 counted from
      0.
    - Windows at the edge of a tile are smaller where its sides do not divide.
    - Under anyres the newline at the end of each row is a column of the grid: windows hold it.
    """

    keep: Budget = knob(Fraction(1, 9), "most visual tokens that may stay: a count or a share")
    layer: int | None = knob(
        None, "first decoder layer that sees fewer tokens; auto: FastV's, 2 of 32"
    )
    window: int | None = knob(
        None, "side a of a window; auto: the smallest that meets `keep`", least=1
    )
    feature: Literal["mean", "argmax-l1"] = knob(
        "mean", "what the new token is: the window's mean, or its token of largest L1 norm"
    )

    def plan(self, request: Request) -> Plan:
        layer = request.layer(self.layer, published=2)
        return Plan([Stage(Entering(layer), _pooled(request.grid, self.side(request)))])

    def side(self, request: Request) -> int:
        """The side of a window, in tokens."""
        longest = max(max(s.height, s.width) for s in request.grid)
        if self.window is not None:
            return min(self.window, longest)
        budget, side = request.budget(self.keep), 1
        while side < longest and _pooled(request.grid, side) > budget:
            side += 1
        return side

    def decide(self, view: View, stage: Stage) -> Keep | None:
        import torch

        side = self.side(view.request)
        index, means, first = [], [], 0
        for count, segment in _runs(view.request.grid):
            tokens = view.states[:, first : first + count * segment.tokens]
            places, mean = _pool(tokens, count, segment, side)
            index.append(places + first)
            means.append(mean)
            first += count * segment.tokens
        chosen = torch.cat(index, 1)
        if self.feature == "argmax-l1":
            return Keep(chosen.sort(-1).values)
        merged = torch.full(chosen.shape[1:], side > 1, device=chosen.device)
        return Keep(chosen, torch.cat(means, 1), merged)


def _pooled(segments: tuple[Segment, ...], side: int) -> int:
    return sum(-(-s.height // side) * -(-s.width // side) for s in segments)


def _runs(segments: tuple[Segment, ...]) -> list[tuple[int, Segment]]:
    """Neighbouring segments of one size, counted: they are pooled together."""
    return [(len(list(equal)), segment) for segment, equal in itertools.groupby(segments)]


def _pool(tokens: Tensor, count: int, segment: Segment, side: int) -> tuple[Tensor, Tensor]:
    """Places [B, m] of the largest L1 norms among tokens [B, n, d], and window means [B, m, d]."""
    from torch.nn import functional

    batch, _, width = tokens.shape
    grid = tokens.reshape(batch * count, segment.height, segment.width, width).permute(0, 3, 1, 2)
    mean = functional.avg_pool2d(grid, side, ceil_mode=True, count_include_pad=False)
    norms = grid.float().abs().sum(1, keepdim=True)
    _, places = functional.max_pool2d(norms, side, ceil_mode=True, return_indices=True)
    tile = places.new_ones(count).cumsum(0).sub(1).mul(segment.tokens).repeat(batch)
    places = places.flatten(1) + tile[:, None]
    return places.view(batch, -1), mean.flatten(2).transpose(1, 2).reshape(batch, -1, width)
