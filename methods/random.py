"""Random pruning, the baseline that the paper found hard to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import Scorer, View, knob, register

if TYPE_CHECKING:
    from torch import Tensor


@register("random")
@dataclass(frozen=True)
class Random(Scorer):
    """On entering one layer, keep visual tokens drawn at random without replacement.

    Paper: https://arxiv.org/abs/2502.11501 (section 4)

    Departures:
    - The paper names no layer for it: FastV's is taken.
    - All rows of a batch keep the same places: one draw by `seed` serves every request.
    """

    launches = 1

    seed: int = knob(0, "seed of the draw", least=0, most=2**63 - 1)

    def score(self, view: View) -> Tensor:
        return view.random(1, view.count, seed=self.seed).expand(view.hidden.shape[0], -1)
