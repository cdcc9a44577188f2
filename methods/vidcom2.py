"""VidCom2: unlike frames keep more of their tokens, and of each frame the unlike ones stay."""

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
    frames_of,
    knob,
    register,
    unit,
)

if TYPE_CHECKING:
    from torch import Tensor

WIDTHS = (-3, 1)
"""Of the Gaussian kernels: the least and the largest variance, as powers of 2; each is twice the
one before."""
TEMPERATURE = 0.01


@register("vidcom2")
@dataclass(frozen=True)
class VidCom2(Method):
    """Keep the tokens of a video that are unlike the mean of all and of their frame.

    Before the decoder, on the half of the channels that vary least over the video. How alike a
    token and a mean are is a sum of Gaussian kernels of their distance. A frame's share of the
    budget grows with the softmax over frames of how unlike the whole video its tokens are.

    Paper: https://arxiv.org/abs/2505.14454
    Code: xuyang-liu16/VidCom2

    Departures:
    - Frames share the budget by largest remainder; the released code rounds each by itself, to
      one token at least, so that its count varies.
    - What a frame cannot hold of its share goes to the best tokens of the others; in the
      released code it is lost.
    - The newline behind the frames of LLaVA-OneVision is within the budget.
    - Scores are taken in float32, in the released code in the dtype of the model: ties fall
      otherwise.
    """

    video = True

    keep: Budget = knob(Fraction(1, 4), "visual tokens that stay: a count or a share")

    def plan(self, request: Request) -> Plan:
        frames = frames_of(request)
        left = frames.budget(request, self.keep)
        if left == frames.tokens:
            return Plan()
        launches = 37 + bool(request.breaks) + 2 * bool(frames.others)
        stage = Stage(Projected(), left + frames.others, launches=launches)
        return Plan([stage], published=Published())

    def decide(self, view: View, stage: Stage) -> Keep | None:
        assert stage.tokens is not None
        frames = frames_of(view.request)
        left = stage.tokens - frames.others
        states = view.states[:, : frames.tokens].float()
        varied = states.var(1, correction=0)
        steady = varied.topk(varied.shape[-1] // 2, largest=False).indices
        steady = steady[:, None].expand(-1, frames.tokens, -1)
        tokens = frames.inside(unit(states.gather(2, steady)))
        of_video, of_frame = _likeness(tokens)
        unlike = (of_video.mean(-1) / -TEMPERATURE).softmax(-1)
        shares = left / frames.count * (1 + unlike - unlike.mean(-1, keepdim=True))
        return Keep(frames.with_others(_best(-(of_video + of_frame), shares, left)))


def _likeness(tokens: Tensor) -> Tensor:
    """How alike tokens [N, F, T, d] are to the mean of all, and to that of their frame:
    [2, N, F, T]."""
    import torch

    of_video = (tokens - tokens.mean((1, 2), keepdim=True)).square().sum(-1)
    of_frame = (tokens - tokens.mean(2, keepdim=True)).square().sum(-1)
    squared = torch.stack([of_video, of_frame])
    least, most = WIDTHS
    kernels = most - least + 1
    doubled = torch.logspace(least + 1, most + 1, kernels, base=2.0, device=tokens.device)
    return (-squared / doubled.view(-1, 1, 1, 1, 1)).exp().sum(0)


def _best(worth: Tensor, shares: Tensor, count: int) -> Tensor:
    """Places int64 [N, count], in ascending order, of the worthiest tokens of each frame, by worth
    [N, F, T], all of it below 0, as many as its share [N, F] by largest remainder, of equal ones
    the first; and of the worthiest of all for what a frame cannot hold.

    What of its frame's share is left to a token when its turn comes: at least 1 if it is within,
    the remainder for the next one, and below 0 for the others, which go by their worth.
    """
    turn = worth.argsort(dim=-1, descending=True, stable=True).argsort(-1)
    left = (shares[..., None] - turn).clamp_max(1)
    ranked = left.where(left >= 0, worth).flatten(1).argsort(descending=True, stable=True)
    return ranked[:, :count].sort(-1).values
