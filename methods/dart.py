"""DART: tokens that say what others say go, however much attention they draw."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from . import (
    Budget,
    Entering,
    Keep,
    Keys,
    Method,
    Plan,
    Published,
    Request,
    Stage,
    View,
    knob,
    quotas,
    register,
    take,
    unit,
)

PIVOTS = 4  # of the picture, and as many of the text behind it


@register("dart")
@dataclass(frozen=True)
class DART(Method):
    """On entering one layer, keep a few pivots and the visual tokens least like each of them.

    Pivots are the visual tokens and the text tokens with the largest keys (L1 norm over all heads)
    of the layer before. One pivot after another takes its share of what is left, the least alike
    first, by the cosine of hidden states behind the model's final norm. No attention is read.

    Paper: https://arxiv.org/abs/2502.11494
    Code: ZichenWen1/DART

    Departures:
    - Pivots take their turns by falling norm, those of the picture first; in the released code the
      order is that of a Python set of their places.
    - The budget counts all that stays; the released code keeps its own, rounded down to a multiple
      of 8, and 4 pivots besides: its 128 is keep=132.
    - What the pivots cannot share evenly goes to the first of them.
    - Norms of keys and cosines are taken in float32, in half precision by the released code: ties
      fall otherwise.
    - Below 24 decoder layers, layer 2 of 32 becomes as deep in proportion.
    """

    keep: Budget = knob(Fraction(1, 9), "visual tokens that stay: a count or a share")
    layer: int | None = knob(None, "first decoder layer that sees fewer tokens; auto: 2 of 32")

    def plan(self, request: Request) -> Plan:
        layer, count = request.layer(self.layer, published=2), request.budget(self.keep)
        if count == request.visual:
            return Plan()
        image, text = _pivots(count, request)
        flops = 2 * (image + text) * request.visual * request.hidden
        turns = min(image + text, count - image)
        stage = Stage(Entering(layer), count, Keys(), flops, launches=33 + 3 * turns)
        return Plan([stage], published=Published())

    def decide(self, view: View, stage: Stage) -> Keep | None:
        import torch

        image, text = _pivots(stage.count, view.request)
        chosen = view.keys.float().abs().sum((1, 3)).topk(image, -1).indices
        asking = view.text_keys.float().abs().sum((1, 3)).topk(text, -1).indices
        visual = unit(view.norm(view.states))
        pivots = torch.cat([take(visual, chosen), unit(view.norm(take(view.text, asking)))], 1)
        likeness = pivots @ visual.transpose(1, 2)
        gone = torch.zeros_like(likeness[:, 0], dtype=torch.bool).scatter(1, chosen, True)
        turns = image + text
        for pivot, share in enumerate(quotas(stage.count - image, [view.count] * turns)):
            if share:
                left = likeness[:, pivot].masked_fill(gone, float("inf"))
                gone = gone.scatter(1, left.topk(share, -1, largest=False).indices, True)
        return Keep(gone.float().topk(stage.count, -1).indices.sort(-1).values)


def _pivots(count: int, request: Request) -> tuple[int, int]:
    """Pivots of the picture, if `count` tokens stay, and of the text."""
    return min(PIVOTS, count), min(PIVOTS, request.after)
