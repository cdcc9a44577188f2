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
    round_shares,
    top_in_groups,
    unit,
)

if TYPE_CHECKING:
    from torch import Tensor

WIDTHS = (1 / 8, 1 / 4, 1 / 2, 1, 2)
"""Of the Gaussian kernels: variances."""
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
        launches = 86 + bool(request.breaks)
        stage = Stage(Projected(), left + frames.others, launches=launches)
        return Plan([stage], published=Published())

    def decide(self, view: View, stage: Stage) -> Keep | None:
        import torch

        assert stage.tokens is not None
        frames = frames_of(view.request)
        left = stage.tokens - frames.others
        states = view.states[:, : frames.tokens].float()
        varied = states.var(1, correction=0)
        steady = varied.topk(varied.shape[-1] // 2, largest=False).indices
        steady = steady[:, None].expand(-1, frames.tokens, -1)
        tokens = frames.inside(unit(states.gather(2, steady)))
        of_video = _likeness(tokens, tokens.mean((1, 2), keepdim=True))
        of_frame = _likeness(tokens, tokens.mean(2, keepdim=True))
        unlike = (-of_video.mean(-1) / TEMPERATURE).softmax(-1)
        shares = left / frames.count * (1 + unlike - unlike.mean(-1, keepdim=True))
        shares = shares.clamp_max(frames.size)
        quota = round_shares(shares, left)
        frame = torch.arange(frames.tokens, device=tokens.device) // frames.size
        worth = -(of_video + of_frame).flatten(1)
        best = top_in_groups(worth, frame.expand_as(worth), quota, left)
        return Keep(frames.with_others(best.index))


def _likeness(tokens: Tensor, mean: Tensor) -> Tensor:
    """How alike tokens [N, F, T, d] and a mean [N, 1 or F, 1, d] are: [N, F, T]."""
    squared = (tokens - mean).square().sum(-1)
    kernels = [(-squared / (2 * width)).exp() for width in WIDTHS]
    return kernels[0] + kernels[1] + kernels[2] + kernels[3] + kernels[4]
