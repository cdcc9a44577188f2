"""FastV that counts the compression which the model was trained with."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from .core.choose import top
from .core.method import Keep, Method, knob
from .core.plan import Plan, Stage, single_prune
from .core.registry import register
from .core.request import Budget, Request

if TYPE_CHECKING:
    from .core.view import View


@register("fastv-dagger")
@dataclass(frozen=True)
class FastVDagger(Method):
    """FastV with the model's own merging credited against the reduction asked for.

    `keep` is what would remain if pruning had to do it all; the reduction TRR = 1 - keep is
    shared with a merger that joins TACR patches into a token. Without a merger this is FastV.

    Paper: https://arxiv.org/abs/2502.11501 (Eq. 7 and 8)
    """

    keep: Budget = knob(Fraction(1, 9), "visual tokens that would stay without the credit")
    layer: int | None = knob(None, "first decoder layer that sees fewer tokens; published: 2")
    reading: Literal["literal", "patches"] = knob(
        "literal", "literal: prune TRR / TACR of the tokens; patches: TRR counts patches"
    )

    def plan(self, request: Request) -> Plan:
        return single_prune(request, self.count(request), self.layer, rows="last")

    def select(self, view: View, stage: Stage) -> Keep | None:
        return top(view.attention[:, 0], self.count(view.request))

    def count(self, request: Request) -> int:
        """Visual tokens that stay once the merger is credited."""
        share = Fraction(request.budget(self.keep), request.visual)
        if self.reading == "patches":
            return round(request.visual * min(Fraction(1), request.merger * share))
        return round(request.visual * (1 - (1 - share) / request.merger))
