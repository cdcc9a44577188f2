"""FastVID: scenes of a video; the most seen tokens of each frame, the rest gathered by density."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from . import (
    Budget,
    Frames,
    Keep,
    Method,
    Plan,
    Published,
    Request,
    Stage,
    View,
    frames_of,
    knob,
    peak_scores,
    register,
    scenes,
    scored_in_tower,
    squared_distances,
    take,
    top_in_rows,
    unit,
    units,
)

if TYPE_CHECKING:
    from torch import Tensor

NEAREST = 4  # points that density counts
OWN = 0.6  # the least weight of a token among what is gathered into it


@register("fastvid")
@dataclass(frozen=True)
class FastVID(Method):
    """Keep what each frame's tower sees most; gather the rest of a scene into tokens at its peaks.

    Frames that differ begin another scene. In the last frame of a scene, and in every fourth
    before it, tokens that are peaks of density are targets; each token of the scene that is not
    kept goes to the target that it resembles most, in each of those frames. A target is a weighted
    mean of itself and of the mean of what it was given. Without M-RoPE it is given itself, too, as
    in the released code for LLaVA-OneVision; with it, as in that for Qwen2.5-VL, it is not.

    Paper: https://arxiv.org/abs/2503.11187
    Code: LunarShen/FastVID

    Departures:
    - Frames are compared by the mean of their projected tokens, as in the released code for
      Qwen2.5-VL; that for LLaVA takes SigLIP's pooling head, which transformers leaves out, for
      this and for attention.
    - Attention is that of all patches on average (the class token's, where there is one); in the
      released code for Qwen2.5-VL that of their mean query to the mean keys of each token.
    - LLaVA-Video is run as LLaVA-OneVision; in its released code a target is not given itself.
    - Each frame gathers into equally many tokens, rounded down, and keeps the rest of its
      share; the released code rounds by scene or drops what is left, so that its count varies,
      and for Qwen2.5-VL it skips frames that are all but equal.
    - Where frames with targets have too few tokens for them, the best peaks of others are
      targets, too.
    - Positions have no gaps before the decoder; in the released code for LLaVA they have. With
      M-RoPE kept tokens keep theirs, as there.
    - The newline behind the frames of LLaVA-OneVision is within the budget.
    - Likeness and means are float32, in half precision in the released code; of equal targets
      in a frame each is given the token.
    """

    video = True

    keep: Budget = knob(Fraction(1, 10), "visual tokens that stay: a count or a share")
    gathered: Fraction = knob(
        Fraction(2, 5), "share of them that others are gathered into", least=0, most=1
    )
    scenes: int = knob(8, "scenes that a video has at least", least=1)
    threshold: float = knob(0.9, "cosine of two frames, below it a scene begins", least=-1, most=1)
    step: int = knob(4, "frames from one with targets to the next", least=1)

    def plan(self, request: Request) -> Plan:
        frames = frames_of(request)
        left = frames.budget(request, self.keep)
        if left == frames.tokens:
            return Plan()
        targets = self._targets(frames, left) * frames.count
        flops = 2 * frames.tokens * request.hidden * (frames.size + 2 * targets) if targets else 0
        launches = 105 - 6 * request.compactable + bool(request.breaks) if targets else 4
        launches += 2 * bool(frames.others) + (left - targets > frames.count > 1)
        reading = int(request.merger > 1)
        plan = scored_in_tower(
            request, left + frames.others, flops=flops, launches=(reading, launches)
        )
        layer = request.tower.feature_layer
        return dataclasses.replace(plan, published=Published(tower_maps=range(layer, layer + 1)))

    def decide(self, view: View, stage: Stage) -> Keep | None:
        if stage.rows:
            view.set_tag("attention", units(view.rows[:, 0], view.request))
            return None
        assert stage.tokens is not None
        frames = frames_of(view.request)
        left = stage.tokens - frames.others
        each = self._targets(frames, left)
        stay = _most_seen(frames.inside(view.tag("attention")), left - each * frames.count)
        if not each:
            return Keep(frames.with_others(stay.sort(-1).values))
        states = view.states
        wide = frames.inside(states).float()
        scene = scenes(wide.mean(2), self.scenes, self.threshold)
        seen = frames.flags(stay)
        others = (~seen).sum(-1)
        peaks = _peaks(wide, others, view.random(frames.size), seen)
        quota = self._quota(scene, each).minimum(others)
        targets = top_in_rows(peaks, quota, each * frames.count)
        itself = view.request.compactable  # no M-RoPE
        given = _given(wide, targets, seen, scene, itself)
        count = given.sum(1)[..., None]
        means = given.transpose(1, 2) @ wide.flatten(1, 2) / count.clamp_min(1)
        own = (count + 1).reciprocal().clamp_min(OWN)
        features = means.lerp(take(wide.flatten(1, 2), targets), own)
        return frames.keep(states, stay, targets, features, count[..., 0] > itself)

    def _targets(self, frames: Frames, left: int) -> int:
        """Tokens of each frame that others are gathered into, of `left` in all."""
        return int(left * self.gathered / frames.count)

    def _quota(self, scene: Tensor, each: int) -> Tensor:
        """How many targets a frame has, int64 [N, F]: those of its scene shared by every so many-th
        frame from the last one back."""
        together = scene[:, :, None] == scene[:, None]
        length, later = together.sum(-1), together.triu(1).sum(-1)
        sharing = (length + (self.step - 1)) // self.step
        share = -((later // self.step).sub(length, alpha=each) // sharing)  # rounded up
        return share.masked_fill(later % self.step != 0, 0)


def _most_seen(attention: Tensor, count: int) -> Tensor:
    """The places int64 [N, count] of the tokens that stay as they are, by attention [N, F, T], as
    many of each frame, or one more of the first ones."""
    import torch

    frames, size = attention.shape[1:]
    ranked = attention.argsort(dim=-1, descending=True, stable=True)
    first = torch.arange(0, frames * size, size, device=attention.device)
    best = ranked[..., : -(-count // frames)] + first[:, None]
    return best.transpose(1, 2).flatten(1)[:, :count]


def _peaks(tokens: Tensor, points: Tensor, noise: Tensor, gone: Tensor) -> Tensor:
    """How much each of tokens [N, F, T, d] is a peak among those of its frame, so many `points`
    int64 [N, F], that are not `gone` bool [N, F, T]: [N, F, T]."""
    flat, width = tokens.flatten(0, 1), tokens.shape[-1]
    squared = squared_distances(flat)
    scores = peak_scores(squared, width, points.flatten(), NEAREST, noise, gone.flatten(0, 1))
    return scores.view(gone.shape)


def _given(tokens: Tensor, targets: Tensor, seen: Tensor, scene: Tensor, itself: bool) -> Tensor:
    """What each of targets int64 [N, C] is given, float32 [N, n, C]: of all tokens [N, F, T, d],
    those that are not `seen` bool [N, F, T], of its scene int64 [N, F]; of the targets of its
    frame `itself` alone, or none. Of equal targets in a frame each is given the token."""
    import torch

    count, size = seen.shape[1:]
    flat = unit(tokens).flatten(1, 2)
    likeness = (flat @ take(flat, targets).transpose(1, 2)).view(-1, count, size, targets.shape[1])
    frame = (targets // size)[:, None]  # of each target
    apart = scene[..., None] != scene.gather(1, frame[:, 0])[:, None]
    barred = seen[..., None] | apart[:, :, None]
    if not itself:
        is_target = torch.zeros_like(seen.flatten(1)).scatter(1, targets, True).view_as(seen)
        same = torch.arange(count, device=scene.device)[:, None] == frame
        barred = barred | (is_target[..., None] & same[:, :, None])
    likeness = likeness.masked_fill(barred, -2.0).flatten(1, 2)
    group = frame.expand_as(likeness)
    best = likeness.new_full((*likeness.shape[:2], count), -1.5)  # above those barred alone
    best = best.scatter_reduce(2, group, likeness, "amax")
    return (likeness == best.gather(2, group)).float()
