"""CDPruner: tokens that are unlike each other, the more so the more the text asks for them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

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
    greedy,
    knob,
    parts,
    register,
    take,
    unit,
)

if TYPE_CHECKING:
    from torch import Tensor

FLOOR = 1e-6  # of relevance; and what may be left of a token's own cosine, 1, that adds nothing new


@register("cdpruner")
@dataclass(frozen=True)
class CDPruner(Method):
    """Before the decoder, keep visual tokens by a determinantal point process that the text leads.

    Its kernel holds the cosines of all pairs of projected tokens, times the relevance of both:
    the cosine with the mean of the embedded text behind the picture, stretched to [0, 1]. Tokens
    are chosen one by one, each the one that adds most to the determinant. Every tile keeps its
    share of the budget.

    Paper: https://arxiv.org/abs/2506.10967
    Code: Theia-4869/CDPruner

    Departures:
    - Relevance is the likeness to the embedded text, as for models without a text encoder of their
      own; the released code runs CLIP's text encoder, and takes the negative, which its authors saw
      to be better with CLIP alone.
    - The text is all that stands behind the picture, in the released code the question alone.
    - Under anyres the joined tiles are one part beside the base tile, their newlines among them; in
      the released code each tile is a part, its padding included, and there are no newlines.
    - A token of which a millionth or less is new adds nothing, and of several such the first stays;
      in the released code rounding decides between them, or leaves no score that is a number.
    - Cosines are taken in float32, in half precision by the released code: ties fall otherwise.
    - With M-RoPE kept tokens keep their positions; none of the released models has it.
    """

    keep: Budget = knob(Fraction(1, 9), "visual tokens that stay: a count or a share")

    def plan(self, request: Request) -> Plan:
        count, visual, width = request.budget(self.keep), request.visual, request.hidden
        if count == visual:
            return Plan(positions="compact")
        flops, launches = 2 * visual * width, 17
        for part in parts(request, count):
            share, tokens = part.share, part.alike * part.size
            # A row of Cholesky's factor takes those before it from one of the kernel.
            flops += tokens * (2 * part.size * width + (share - 1) * (share - 2))
            launches += 16 * share - 7 - 3 * (share > 1) + (part.alike > 1)
        return Plan(
            [Stage(Projected(), count, flops=flops, launches=launches)],
            positions="compact",
            published=Published(),
        )

    def decide(self, view: View, stage: Stage) -> Keep | None:
        import torch

        states, text = unit(view.states), unit(view.text.float().mean(1, keepdim=True))
        likeness = (states @ text.transpose(1, 2))[..., 0]
        low, high = likeness.amin(-1, keepdim=True), likeness.amax(-1, keepdim=True)
        relevance = (likeness - low + FLOOR) / (high - low).clamp_min(FLOOR)
        kept = []
        for part in parts(view.request, stage.count):
            chosen = _most_volume(part.rows(states), part.rows(relevance), part.share)
            kept.append(part.places(chosen))
        return Keep(torch.cat(kept, 1).sort(-1).values)


def _most_volume(states: Tensor, relevance: Tensor, count: int) -> Tensor:
    """Places [N, count] of unit states [N, n, d] whose kernel has the largest determinant, by
    greedy choice: after each, what it explains is taken from what the others add.

    The kernel's factor is that of the cosines times the relevance: what a token adds is the square
    of its relevance times what is left of its own cosine, 1.
    """
    import torch

    cosines, weight = states @ states.transpose(1, 2), relevance.square()
    left = cosines.diagonal(dim1=1, dim2=2)
    factors = torch.zeros_like(cosines[:, :count])  # rows of Cholesky's

    def after(step: int, place: Tensor) -> Tensor:
        nonlocal left
        row = take(cosines, place)
        if step:
            known = factors[:, :step]
            theirs = known.gather(2, place[:, None].expand(-1, step, -1))
            row = row - theirs.transpose(1, 2) @ known
        own = left.gather(1, place)
        row = (row[:, 0] / own.sqrt()).masked_fill(own == 0, 0.0)
        factors[:, step] = row
        left = torch.threshold(left.addcmul(row, row, value=-1), FLOOR, 0.0)
        return left * weight

    return greedy(left * weight, count, after)
