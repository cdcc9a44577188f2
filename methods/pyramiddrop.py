"""PyramidDrop: fewer visual tokens from stage to stage, by the attention of the layer to come."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from . import (
    Budget,
    Entering,
    Keep,
    Method,
    Plan,
    Published,
    Request,
    Rows,
    Stage,
    View,
    falling_counts,
    knob,
    register,
    top,
)

LAYERS = (8, 16, 24)


@register("pyramiddrop")
@dataclass(frozen=True)
class PyramidDrop(Method):
    """On entering three layers keep the visual tokens that the last token attends to most there.

    The layer's own queries and keys score its input, before it runs on what is left of it.

    Paper: https://arxiv.org/abs/2410.17247
    Code: Cooperx521/PyramidDrop

    Departures:
    - The counts fall by one ratio that is solved for `keep`; published are halves at each stage, a
      mean of 15/32: keep=15/32.
    - Queries, keys and values of all tokens are computed twice at a stage, as in the released code;
      its mask of all tokens is not built.
    - With M-RoPE kept tokens keep their positions; none of the released models has it.
    - Below 24 decoder layers, the stages' layers become as deep in proportion.
    """

    keep: Budget = knob(Fraction(15, 32), "mean over layers of the visual tokens entering a layer")

    def plan(self, request: Request) -> Plan:
        layers, budget = request.scale(LAYERS), request.budget(self.keep)
        if budget == request.visual:
            return Plan(positions="compact")
        counts = falling_counts(request, layers, budget)
        stages = [
            Stage(Entering(layer), count, Rows("last", of="next"), launches=2)
            for layer, count in zip(layers, counts, strict=True)
        ]
        return Plan(stages, positions="compact", published=Published())

    def decide(self, view: View, stage: Stage) -> Keep | None:
        return top(view.rows[:, 0], stage.count)
