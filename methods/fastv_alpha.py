"""FastV that weighs importance against duplication."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from .core.choose import min_max, top, unit
from .core.method import Keep, Method, knob
from .core.plan import Plan, Stage, single_prune
from .core.registry import register
from .core.request import Budget, Request

if TYPE_CHECKING:
    from .core.view import View


@register("fastv-alpha")
@dataclass(frozen=True)
class FastVAlpha(Method):
    """FastV's score balanced with how little a visual token resembles the last token.

    score = alpha * attention + (1 - alpha) * (1 - cosine), both stretched to [0, 1] over the
    visual tokens; hidden states as they enter the layer.

    Paper: https://arxiv.org/abs/2502.11501 (Eq. 6)
    """

    keep: Budget = knob(Fraction(1, 9), "visual tokens that stay: a count or a share")
    layer: int | None = knob(None, "first decoder layer that sees fewer tokens; published: 2")
    alpha: float = knob(0.5, "weight of attention against dissimilarity, 0 to 1")

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha={self.alpha} is not between 0 and 1")

    def plan(self, request: Request) -> Plan:
        cosines = 2 * request.visual * request.hidden
        return single_prune(request, self.keep, self.layer, rows="last", flops=cosines)

    def select(self, view: View, stage: Stage) -> Keep | None:
        cosine = (unit(view.visual) @ unit(view.last).transpose(1, 2))[..., 0]
        importance, duplication = min_max(view.attention[:, 0]), min_max(cosine)
        scores = self.alpha * importance + (1 - self.alpha) * (1 - duplication)
        return top(scores, view.request.budget(self.keep))
