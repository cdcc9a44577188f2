"""DivPrune: the subset of visual tokens whose closest two are as far apart as can be."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from . import (
    Budget,
    Keep,
    Method,
    Plan,
    Projected,
    Published,
    Request,
    Stage,
    View,
    cosines,
    knob,
    register,
    spread_out,
)


@register("divprune")
@dataclass(frozen=True)
class DivPrune(Method):
    """Before the decoder, keep visual tokens one by one, each the farthest from those kept so far.

    Distance is one minus the cosine of two projected tokens. The first kept is the one whose
    nearest neighbour is farthest. No text is asked, and all tiles of a picture are one set.

    Paper: https://arxiv.org/abs/2503.02175
    Code: vbdi/divprune

    Departures:
    - What is kept already is out, even where all that is left are its duplicates; the released code
      may choose it again.
    - Cosines are taken in float32, in half precision by the released code: ties fall otherwise.
    - With M-RoPE kept tokens keep their positions; none of the released models has it.
    """

    keep: Budget = knob(Fraction(1, 9), "visual tokens that stay: a count or a share")

    def plan(self, request: Request) -> Plan:
        count, visual = request.budget(self.keep), request.visual
        if count == visual:
            return Plan(positions="compact")
        flops, launches = 2 * visual**2 * request.hidden, 5 * count + 5
        stage = Stage(Projected(), count, flops=flops, launches=launches)
        return Plan([stage], positions="compact", published=Published())

    def decide(self, view: View, stage: Stage) -> Keep | None:
        return Keep(spread_out(1 - cosines(view.states), stage.count).sort(-1).values)
