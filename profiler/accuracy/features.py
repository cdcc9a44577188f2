"""What the vision tower and the projector make of pictures, kept: the tower runs once a picture."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import TYPE_CHECKING

from ...methods import Method, Request
from ...methods.contract.policies import Policy

if TYPE_CHECKING:
    from torch import Tensor

    from ...methods.engine.decoder import Inputs

MOST_BYTES = 2**28
"""Of the features that are kept; the oldest go first."""


class FeatureCache:
    """Projected patches [1, V, d] by picture, where the model is; `MOST_BYTES` at most."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self.most, self.bytes = most, 0
        self._held: OrderedDict[Hashable, Tensor] = OrderedDict()

    def get(self, picture: Hashable) -> Tensor | None:
        if picture in self._held:
            self._held.move_to_end(picture)
        return self._held.get(picture)

    def put(self, picture: Hashable, features: Tensor) -> None:
        self._held[picture] = features
        self.bytes += features.nbytes
        while self.bytes > self.most and len(self._held) > 1:
            self.bytes -= self._held.popitem(last=False)[1].nbytes


def leaves_tower_alone(method: Method, request: Request, attention: Policy) -> bool:
    """Whether the tower does with the method just what it does without one: no stage in it, and no
    release's own attention."""
    plan = method.plan(request)
    return attention != "published" and not plan.tower and not plan.proportional


def are_all(inputs: Inputs) -> bool:
    """Whether the projected patches of a picture, in their order and at text's positions, are all
    that the decoder is given of it."""
    moved = (inputs.order, inputs.resample, inputs.tower_order, inputs.sequence_ends)
    return inputs.positions.dim() == 2 and not inputs.extras and all(x is None for x in moved)
