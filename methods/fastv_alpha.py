"""FastV that weighs importance against duplication."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import Request, Rows, Scorer, View, knob, min_max, register, unit

if TYPE_CHECKING:
    from torch import Tensor


@register("fastv-alpha")
@dataclass(frozen=True)
class FastVAlpha(Scorer):
    """FastV's score balanced with how little a visual token resembles the last token.

    score = alpha * attention + (1 - alpha) * (1 - cosine), both stretched to [0, 1] over the
    visual tokens; hidden states as they enter the layer.

    Paper: https://arxiv.org/abs/2502.11501 (Eq. 6)

    Departures:
    - The paper does not say which states are compared: those that enter the layer are.
    - Where all visual tokens score alike, stretching to [0, 1] gives 0 for each.
    """

    reads = Rows("last")
    launches = 23

    alpha: float = knob(0.5, "weight of attention against dissimilarity", least=0, most=1)

    def flops(self, request: Request) -> int:
        return 2 * request.visual * request.hidden  # the cosines

    def score(self, view: View) -> Tensor:
        cosine = (unit(view.states) @ unit(view.last).transpose(1, 2))[..., 0]
        importance, duplication = min_max(view.rows[:, 0]), min_max(cosine)
        return self.alpha * importance + (1 - self.alpha) * (1 - duplication)
