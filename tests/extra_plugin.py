"""A plug-in with a method that keeps so many visual tokens, and with one that multiplies matrices.

Load it with --plugin tests/extra_plugin.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tpprof.methods import (
    Entering,
    Keep,
    Method,
    Plan,
    Request,
    Stage,
    View,
    knob,
    register,
    top,
)

KEEP = 7
PRODUCTS = 0


@register("loudest")
@dataclass(frozen=True)
class Loudest(Method):
    """On entering one layer, keep the visual tokens with the largest hidden states."""

    def plan(self, request: Request) -> Plan:
        return Plan([Stage(Entering(3), KEEP)])

    def decide(self, view: View, stage: Stage) -> Keep | None:
        return top(view.states.norm(dim=-1), KEEP)


@register("toil")
@dataclass(frozen=True)
class Toil(Method):
    """Keep every token, and multiply matrices `PRODUCTS` times before the last layer."""

    width: int = knob(256, "rows and columns of the matrices")

    def plan(self, request: Request) -> Plan:
        return Plan([Stage(Entering(request.layers - 1), request.visual)])

    def decide(self, view: View, stage: Stage) -> Keep | None:
        matrix = torch.eye(self.width)
        for _ in range(PRODUCTS):
            matrix = matrix @ matrix
        return None
