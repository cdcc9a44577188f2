"""FastV with the same quota in every window of the picture."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from .core.choose import top
from .core.method import Keep, Method, knob
from .core.plan import Plan, Stage, single_prune
from .core.registry import register
from .core.request import Budget, Request, Segment

if TYPE_CHECKING:
    from torch import Tensor, device

    from .core.view import View


@register("fastv-window")
@dataclass(frozen=True)
class FastVWindow(Method):
    """FastV's score, but every window of the picture keeps its share: no position bias.

    Windows do not overlap; tiles are windowed one by one; a budget that does not divide evenly
    is spread by largest remainder.

    Paper: https://arxiv.org/abs/2502.11501 (Algorithm 3)
    """

    keep: Budget = knob(Fraction(1, 9), "visual tokens that stay: a count or a share")
    layer: int | None = knob(None, "first decoder layer that sees fewer tokens; published: 2")
    height: int | None = knob(None, "window height in tokens; auto: one token a window stays")
    width: int | None = knob(None, "window width in tokens; auto: as the height")

    def __post_init__(self) -> None:
        for name, side in (("height", self.height), ("width", self.width)):
            if side is not None and side < 1:
                raise ValueError(f"{name}={side} is not at least 1")

    def plan(self, request: Request) -> Plan:
        return single_prune(request, self.keep, self.layer, rows="last")

    def select(self, view: View, stage: Stage) -> Keep | None:
        budget = view.request.budget(self.keep)
        side = max(1, int((view.request.visual / budget) ** 0.5))
        height = self.height or side
        window, quota = _windows(
            view.request.segments, height, self.width or self.height or side, budget,
            view.hidden.device,
        )  # fmt: skip
        ranked = view.attention[:, 0].argsort(-1, descending=True)
        grouped = window[ranked].argsort(stable=True, dim=-1)
        order = ranked.gather(-1, grouped)  # by window, best first
        kept = quota.expand_as(order)
        return top(kept.new_zeros(kept.shape).scatter(-1, order, kept), budget)


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
    quota = [budget * size // len(window) for size in sizes]
    remainders = [-(budget * size % len(window)) for size in sizes]
    for index in sorted(range(first), key=remainders.__getitem__)[: budget - sum(quota)]:
        quota[index] += 1
    stays = [float(place < quota[w]) for w, size in enumerate(sizes) for place in range(size)]
    return torch.tensor(window, device=where), torch.tensor(stays, device=where)
