"""FasterVLM: the vision tower's own attention decides, before the decoder sees a token."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from . import (
    Budget,
    Keep,
    Method,
    Plan,
    Request,
    Stage,
    View,
    knob,
    register,
    scored_in_tower,
    shares,
    top_in_parts,
    units,
)


@register("fastervlm")
@dataclass(frozen=True)
class FasterVLM(Method):
    """Before the decoder, keep the visual tokens that the tower's class token attends to most.

    Every tile keeps its share of the budget. All tokens pass the projector, as in released code.

    Paper: https://arxiv.org/abs/2412.01818
    Code: Theia-4869/FasterVLM

    Departures:
    - Without a class token the score is what all patches attend to a patch on average, and a
      token's that of its patches; the paper has no such tower.
    - Under anyres the joined tiles are one part beside the base tile, and newlines go first; the
      released code works tile by tile, drops the newlines and leaves the padding in.
    - Heads are averaged in float32, in half precision by the released code: ties fall otherwise.
    """

    keep: Budget = knob(Fraction(1, 9), "visual tokens that stay: a count or a share")

    def plan(self, request: Request) -> Plan:
        count = request.budget(self.keep)
        kept_from = sum(share > 0 for share in shares(request, count))
        reading = int(request.merger > 1)
        return scored_in_tower(request, count, launches=(reading, 2 * kept_from + 2))

    def decide(self, view: View, stage: Stage) -> Keep | None:
        if stage.rows:
            scores = units(view.rows[:, 0], view.request)
            view.set_tag("attention", scores, newline=-1.0)  # below any weight
            return None
        tagged = view.tag("attention")
        request = view.request
        sizes = [segment.tokens for segment in request.grid]
        return top_in_parts(tagged, sizes, shares(request, request.budget(self.keep)))
