"""FastV, the method that started pruning inside the decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import Rows, Scorer, View, register

if TYPE_CHECKING:
    from torch import Tensor


@register("fastv")
@dataclass(frozen=True)
class FastV(Scorer):
    """On entering one layer, keep the visual tokens that the last token attends to most.

    Paper: https://arxiv.org/abs/2403.06764
    Code: pkunlp-icler/FastV

    Departures:
    - Heads are averaged in float32, in half precision by the released code: ties fall otherwise.
    - Below 24 decoder layers, layer 2 of 32 becomes as deep in proportion.
    """

    reads = Rows("last")
    launches = 0

    def score(self, view: View) -> Tensor:
        return view.rows[:, 0]
