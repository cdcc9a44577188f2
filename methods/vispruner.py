"""VisPruner: important tokens by the vision tower's attention, and diverse ones of the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from . import (
    Budget,
    Keep,
    Method,
    Plan,
    Request,
    Segment,
    Stage,
    View,
    in_parts,
    knob,
    register,
    scored_in_tower,
    shares,
    take,
    unit,
    units,
)

if TYPE_CHECKING:
    from torch import Tensor

STEP = 8  # tokens removed at a time


@register("vispruner")
@dataclass(frozen=True)
class VisPruner(Method):
    """Keep the tokens that the tower's class token attends to most, and the least alike of others.

    The others, by falling attention, are dealt to two sides in turn; the eight of the first side
    that resemble one of the second most are removed, and so on until the budget is met. Every tile
    keeps its share of the budget. All tokens pass the projector, as in the released code.

    Paper: https://arxiv.org/abs/2412.01818
    Code: Theia-4869/VisPruner

    Departures:
    - Fewer than eight tokens are removed where a side has fewer, and an odd number is dealt with
      one more on the first side; the released code ends with an error at both.
    - Without a class token attention is what all patches attend to a patch on average, and a
      token's attention and state are the means of its patches'.
    - Under anyres the joined tiles are one part beside the base tile, and newlines go first; the
      released code works tile by tile, drops the newlines and leaves the padding in.
    - Scores and likeness are float32, in half precision in the released code: ties fall otherwise.
    """

    keep: Budget = knob(Fraction(1, 9), "visual tokens that stay: a count or a share")
    important: Fraction = knob(
        Fraction(1, 2), "share of `keep` that is chosen by attention", least=0, most=1
    )

    def plan(self, request: Request) -> Plan:
        tower, budget = request.tower, request.budget(self.keep)
        if budget == request.visual:
            return Plan()
        flops = sum(
            2 * (left - left // 2) * (left // 2) * tower.width
            for part, count in zip(request.segments, shares(request, budget), strict=True)
            for left, _ in _steps(*self._others(part, count))
        )
        return scored_in_tower(request, budget, flops=flops)

    def decide(self, view: View, stage: Stage) -> Keep | None:
        request = view.request
        if stage.rows:
            scores = units(view.rows[:, 0], request)
            view.set_tag("attention", scores, newline=float("-inf"))
            view.set_tag("states", units(view.states, request))
            return None
        attention, joined = view.tag("attention"), view.tag("states")
        counts = shares(request, request.budget(self.keep))
        return in_parts(request.segments, counts, self._choose, attention, joined)

    def _choose(self, part: Segment, count: int, attention: Tensor, states: Tensor) -> Keep:
        """`count` of the tokens of a part, by attention [N, n] and states [N, n, d]."""
        import torch

        others, diverse = self._others(part, count)
        important = count - diverse
        ranked, directions = attention.argsort(-1, descending=True), unit(states)
        rest = ranked[:, important : important + others]
        for _, gone in _steps(others, diverse):
            first, second = rest[:, ::2], rest[:, 1::2]
            likeness = take(directions, first) @ take(directions, second).transpose(1, 2)
            stay = likeness.amax(-1).argsort(-1, descending=True)[:, gone:]
            rest = torch.cat([first.gather(1, stay), second], 1)
        return Keep(torch.cat([ranked[:, :important], rest], 1).sort(-1).values)

    def _others(self, part: Segment, count: int) -> tuple[int, int]:
        """The patches of a part that are not important, and how many of them are to stay."""
        diverse = count - int(count * self.important)
        if not diverse or count >= part.patches:
            return 0, 0
        return part.patches - count + diverse, diverse


def _steps(others: int, diverse: int) -> Iterator[tuple[int, int]]:
    """Tokens before each step of the removal, and how many go, until `diverse` are left."""
    while others > diverse:
        gone = min(STEP, others - diverse, others - others // 2)
        yield others, gone
        others -= gone
