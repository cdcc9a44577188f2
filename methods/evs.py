"""EVS: what of a video's frames differs from the frame before."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from . import (
    Budget,
    BudgetError,
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


@register("evs")
@dataclass(frozen=True)
class EVS(Method):
    """Keep the first frame of a video, and what differs most from the same place one frame before.

    Efficient Video Sampling, as vLLM ships it. Before the decoder; the difference is one minus the
    cosine of two projected tokens, and those of all frames are ranked together. With M-RoPE kept
    tokens keep their positions, as in vLLM.

    Paper: https://arxiv.org/abs/2510.14624
    Code: vllm-project/vllm (multimodal/evs.py)

    Departures:
    - The paper compares pixels; vLLM, as this, what the projector gives.
    - A budget below the first frame is refused; vLLM keeps that frame alone then.
    - Cosines are taken in float32, in vLLM in the dtype of the model: ties fall otherwise.
    - On Qwen3-VL the projected tokens alone are compared; vLLM appends DeepStack's features.
    - Text behind the video keeps its positions, too; on Qwen2.5-VL vLLM numbers it from the
      width of a frame on, however long the video is.
    - It is shipped for Qwen2.5-VL, Qwen3-VL and Nemotron; on LLaVA-OneVision the newline behind
      the frames stays, within the budget.
    """

    video = True

    keep: Budget = knob(Fraction(1, 4), "visual tokens that stay: a count or a share")

    def plan(self, request: Request) -> Plan:
        frames = frames_of(request)
        left = frames.budget(request, self.keep)
        if left == frames.tokens:
            return Plan()
        if left < frames.size:
            raise BudgetError(
                f"keep={self.keep} means {left} visual tokens of the frames, fewer than the "
                f"{frames.size} of the first frame, which EVS keeps whole (vLLM then keeps that "
                f"frame alone: keep={frames.size + frames.others} here): ask for at least that"
            )
        launches = 11 + bool(request.breaks) + 2 * bool(frames.others)
        stage = Stage(Projected(), left + frames.others, launches=launches)
        return Plan([stage], published=Published())

    def decide(self, view: View, stage: Stage) -> Keep | None:
        frames = frames_of(view.request)
        assert stage.tokens is not None
        states = frames.inside(unit(view.states))
        changes = 1 - (states[:, 1:] * states[:, :-1]).sum(-1)
        ranked = changes.flatten(1).argsort(dim=-1, descending=True, stable=True)
        others = ranked[:, : stage.tokens - frames.size - frames.others] + frames.size
        return Keep(frames.with_others(_behind_first(others.sort(-1).values, frames.size)))


def _behind_first(index: Tensor, size: int) -> Tensor:
    """All places of the first frame, and behind them those of index [N, k]."""
    import torch

    first = torch.arange(size, device=index.device)
    return torch.cat([first.expand(len(index), -1), index], 1)
