"""The frames of a video: what methods for videos share. No torch before one is called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..contract.method import Keep
from ..contract.request import Budget, BudgetError, Request, UnsupportedError
from .choose import take, unit

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Frames:
    """The frames of a video, whose tokens lie one behind another, all equally many.

    count: how many there are; where a model joins several in time, what it makes of them is one.
    size: tokens of each. others: visual tokens behind them that are of no frame: newlines.
    """

    count: int
    size: int
    others: int

    @property
    def tokens(self) -> int:
        """Of all frames."""
        return self.count * self.size

    def budget(self, request: Request, keep: Budget) -> int:
        """What `keep` leaves to the frames, once the others have stayed. Raises BudgetError where
        that is nothing."""
        whole = request.budget(keep)
        if whole <= self.others:
            raise BudgetError(
                f"keep={keep} means {whole} visual tokens, and the {self.others} behind the frames "
                "(newlines) always stay: give more"
            )
        return whole - self.others

    def inside(self, values: Tensor) -> Tensor:
        """Values [N, V, ...] of all visual tokens as those of the frames [N, F, T, ...]."""
        inside = values[:, : self.tokens]
        return inside.reshape(len(values), self.count, self.size, *values.shape[2:])

    def flags(self, index: Tensor) -> Tensor:
        """Flags bool [N, F, T] on the places index [N, k] in the frames."""
        import torch

        none = torch.zeros(len(index), self.tokens, dtype=torch.bool, device=index.device)
        return self.inside(none.scatter(1, index, True))

    def with_others(self, index: Tensor, first: int | None = None) -> Tensor:
        """Places int64 [N, k] in the frames, and behind them those of the others: from `first` on,
        where not all tokens of the frames are there."""
        import torch

        if not self.others:
            return index
        start = self.tokens if first is None else first
        behind = torch.arange(start, start + self.others, device=index.device)
        return torch.cat([index, behind.expand(len(index), -1)], 1)

    def keep(
        self, states: Tensor, stay: Tensor, places: Tensor, features: Tensor, merged: Tensor
    ) -> Keep:
        """Keep the tokens of states [N, V, d] at `stay` [N, k], those at `places` [N, m] with new
        features [N, m, d], some of which are `merged` bool [N, m], and the others, all in their
        order in the sequence."""
        import torch

        index = self.with_others(torch.cat([stay, places], 1).sort(1).values)
        where = places[..., None].expand_as(features)
        changed = states.scatter(1, where, features.to(states.dtype))
        flags = torch.zeros_like(states[..., 0], dtype=torch.bool).scatter(1, places, merged)
        return Keep(index, take(changed, index), flags.gather(1, index))


def scenes(states: Tensor, least: int, threshold: float) -> Tensor:
    """The scene int64 [N, F] of each frame of states [N, F, d]: another begins where the cosine to
    the frame before is below the threshold, and where it is lowest, so that there are `least`."""
    import torch

    directions = unit(states)
    likeness = (directions[:, 1:] * directions[:, :-1]).sum(-1)
    lowest = likeness.topk(min(least - 1, likeness.shape[1]), largest=False).indices
    cuts = (likeness < threshold).scatter(1, lowest, True)
    return torch.nn.functional.pad(cuts.cumsum(1), (1, 0))


def frames_of(request: Request) -> Frames:
    """The frames of the request; raises UnsupportedError where there are none, or where an earlier
    method has left holes in them."""
    count, segments = request.frames, request.grid
    if not count:
        raise UnsupportedError(
            "it compares the frames of a video, and there are none: give --video or --frames"
        )
    sizes = {segment.tokens for segment in segments[:count] if segment.frame}
    if len(sizes) != 1 or not all(segment.frame for segment in segments[:count]):
        raise UnsupportedError("it needs frames of one size, with nothing between their tokens")
    (size,) = sizes
    return Frames(count, size, request.visual - count * size)
