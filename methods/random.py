"""Random pruning, the baseline that the paper found hard to beat."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from .core.choose import top
from .core.method import Keep, Method, knob
from .core.plan import Plan, Stage, single_prune
from .core.registry import register
from .core.request import Budget, Request

if TYPE_CHECKING:
    from .core.view import View


@register("random")
@dataclass(frozen=True)
class Random(Method):
    """On entering one layer, keep visual tokens drawn at random without replacement.

    Paper: https://arxiv.org/abs/2502.11501 (section 4)
    """

    keep: Budget = knob(Fraction(1, 9), "visual tokens that stay: a count or a share")
    layer: int | None = knob(None, "first decoder layer that sees fewer tokens; published: 2")
    seed: int = knob(0, "seed of the draw")

    def plan(self, request: Request) -> Plan:
        return single_prune(request, self.keep, self.layer, rows=None)

    def select(self, view: View, stage: Stage) -> Keep | None:
        draw = view.random(1, view.count, seed=self.seed).expand(view.hidden.shape[0], -1)
        return top(draw, view.request.budget(self.keep))
