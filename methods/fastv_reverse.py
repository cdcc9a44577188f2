"""FastV turned round, to show that its scores carry information."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import Rows, Scorer, View, register

if TYPE_CHECKING:
    from torch import Tensor


@register("fastv-reverse")
@dataclass(frozen=True)
class FastVReverse(Scorer):
    """On entering one layer, keep the visual tokens that the last token attends to least.

    Paper: https://arxiv.org/abs/2502.11501 (Algorithm 2, which as printed negates twice)

    Departures:
    - Algorithm 2 as printed negates the scores twice, which cancels; its text is followed.
    """

    reads = Rows("last")
    launches = 1

    def score(self, view: View) -> Tensor:
        return -view.rows[:, 0]
