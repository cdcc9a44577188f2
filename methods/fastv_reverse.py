"""FastV turned round, to show that its scores carry information."""

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


@register("fastv-reverse")
@dataclass(frozen=True)
class FastVReverse(Method):
    """On entering one layer, keep the visual tokens that the last token attends to least.

    Paper: https://arxiv.org/abs/2502.11501 (Algorithm 2, which as printed negates twice)
    """

    keep: Budget = knob(Fraction(1, 9), "visual tokens that stay: a count or a share")
    layer: int | None = knob(None, "first decoder layer that sees fewer tokens; published: 2")

    def plan(self, request: Request) -> Plan:
        return single_prune(request, self.keep, self.layer, rows="last")

    def select(self, view: View, stage: Stage) -> Keep | None:
        return top(-view.attention[:, 0], view.request.budget(self.keep))
