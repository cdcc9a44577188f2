"""FastV that counts the compression which the model was trained with."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from . import Budget, Request, Rows, Scorer, View, knob, register

if TYPE_CHECKING:
    from torch import Tensor


@register("fastv-dagger")
@dataclass(frozen=True)
class FastVDagger(Scorer):
    """FastV with the model's own merging credited against the reduction asked for.

    `keep` is what would remain if pruning had to do it all; the reduction TRR = 1 - keep is
    shared with a merger that joins TACR patches into a token. Without a merger this is FastV.

    Paper: https://arxiv.org/abs/2502.11501 (Eq. 7 and 8)

    Departures:
    - Equations 7 and 8 can be read in two ways: `reading` chooses, and literal is the default.
    """

    reads = Rows("last")
    launches = 0

    keep: Budget = knob(Fraction(1, 9), "visual tokens that would stay without the credit")
    reading: Literal["literal", "patches"] = knob(
        "literal", "literal: prune TRR / TACR of the tokens; patches: TRR counts patches"
    )

    def count(self, request: Request) -> int:
        share = Fraction(request.budget(self.keep), request.visual)
        if self.reading == "patches":
            return round(request.visual * min(Fraction(1), request.merger * share))
        return round(request.visual * (1 - (1 - share) / request.merger))

    def score(self, view: View) -> Tensor:
        return view.rows[:, 0]
