"""FastV without language guidance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import Rows, Scorer, View, register

if TYPE_CHECKING:
    from torch import Tensor


@register("fastv-vis")
@dataclass(frozen=True)
class FastVVis(Scorer):
    """On entering one layer, keep the visual tokens that the last visual token attends to most.

    Paper: https://arxiv.org/abs/2502.11501 (section 5.1)

    Departures:
    - Under anyres the last visual token is the newline behind the last row, and no patch.
    """

    reads = Rows("last-visual")
    launches = 0

    def score(self, view: View) -> Tensor:
        return view.rows[:, 0]
