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
    distances,
    frames_of,
    knob,
    peak_scores,
    register,
    scenes,
    scored_in_tower,
    take,
    top_in_groups,
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
    mean of itself and of what it was given.

    Paper: https://arxiv.org/abs/2503.11187
    Code: LunarShen/FastVID

    Departures:
    - Frames are compared by the mean of their projected tokens, as in the released code for
      Qwen2.5-VL; that for LLaVA takes SigLIP's pooling head, which transformers leaves out, for
      this and for attention.
    - Attention is that of all patches on average (the class token's, where there is one); in the
      released code for Qwen2.5-VL that of their mean query to the mean keys of each token.
    - A target is not given itself, as in the released code for Qwen2.5-VL; in that for LLaVA it
      is, and weighs more.
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
    threshold: float = knob(0.9, "cosine to the frame before, below which another scene begins")
    step: int = knob(4, "frames from one with targets to the next", least=1)

    def plan(self, request: Request) -> Plan:
        frames = frames_of(request)
        left = frames.budget(request, self.keep)
        if left == frames.tokens:
            return Plan()
        targets = self._targets(frames, left) * frames.count
        flops = 2 * frames.tokens * request.hidden * (frames.size + 2 * targets)
        launches = 157 + bool(request.breaks) if targets else 11
        reading = int(request.merger > 1)
        plan = scored_in_tower(
            request,
            left + frames.others,
            flops=flops if targets else 0,
            launches=(reading, launches),
        )
        layer = request.tower.feature_layer
        return dataclasses.replace(plan, published=Published(tower_maps=range(layer, layer + 1)))

    def decide(self, view: View, stage: Stage) -> Keep | None:
        import torch

        if stage.rows:
            view.set_tag("attention", units(view.rows[:, 0], view.request))
            return None
        assert stage.tokens is not None
        frames = frames_of(view.request)
        left = stage.tokens - frames.others
        each = self._targets(frames, left)
        seen = _most_seen(frames.inside(view.tag("attention")), left - each * frames.count)
        stay = seen.flatten(1).float().topk(left - each * frames.count).indices
        if not each:
            return Keep(frames.with_others(stay.sort(-1).values))
        states = view.states
        tokens = frames.inside(states)
        scene = scenes(tokens.float().mean(2), self.scenes, self.threshold)
        peaks = _peaks(tokens, ~seen, view.random(frames.size) * 1e-6)
        number = torch.arange(frames.tokens, device=states.device) // frames.size
        quota = self._quota(scene, each).minimum((~seen).sum(-1))
        frame = number.expand(len(states), -1)
        targets = top_in_groups(peaks.flatten(1), frame, quota, each * frames.count).index
        given = _given(states[:, : frames.tokens], targets, ~seen.flatten(1), scene, frame)
        count = given.sum(1)[..., None]
        means = given.transpose(1, 2) @ states[:, : frames.tokens].float() / count.clamp_min(1)
        weight = (1 / (count + 1)).clamp_min(OWN)
        features = weight * take(states, targets) + (1 - weight) * means
        return frames.keep(states, stay, targets, features, count[..., 0] > 0)

    def _targets(self, frames: Frames, left: int) -> int:
        """Tokens of each frame that others are gathered into, of `left` in all."""
        return int(left * self.gathered / frames.count)

    def _quota(self, scene: Tensor, each: int) -> Tensor:
        """How many targets a frame has, int64 [N, F]: those of its scene shared by every so many-th
        frame from the last one back."""
        together = scene[:, :, None] == scene[:, None]
        length, later = together.sum(-1), together.triu(1).sum(-1)
        sharing = (length + self.step - 1) // self.step
        whole, rest = each * length // sharing, each * length % sharing
        share = whole + (later // self.step < rest)
        return share * (later % self.step == 0)


def _most_seen(attention: Tensor, count: int) -> Tensor:
    """Flags bool [N, F, T] on the `count` tokens that stay as they are, as many of each frame, or
    one more of the first ones."""
    import torch

    each, more = divmod(count, attention.shape[1])
    rank = attention.argsort(-1, descending=True).argsort(-1)
    first = torch.arange(attention.shape[1], device=attention.device) < more
    return rank < each + first[:, None]


def _peaks(tokens: Tensor, among: Tensor, noise: Tensor) -> Tensor:
    """How much each of tokens [N, F, T, d] is a peak among those of its frame: [N, F, T]."""
    flat, there = tokens.flatten(0, 1).float(), among.flatten(0, 1)
    nearest = there.sum(-1).clamp_max(NEAREST)
    return peak_scores(distances(flat), nearest, noise, there).view(among.shape)


def _given(states: Tensor, targets: Tensor, gone: Tensor, scene: Tensor, frame: Tensor) -> Tensor:
    """What each target is given, float32 [N, n, C]: of states [N, n, d] those that are `gone` bool
    [N, n], by scene int64 [N, F] and frame int64 [N, n]; a target of a frame is not given others of
    it."""
    of_target = frame.gather(1, targets)  # their frames [N, C]
    likeness = unit(states) @ unit(take(states, targets)).transpose(1, 2)
    is_target = gone.new_zeros(gone.shape).scatter(1, targets, True)
    together = scene.gather(1, frame)[..., None] == scene.gather(1, of_target)[:, None]
    own = is_target[..., None] & (frame[..., None] == of_target[:, None])
    may = gone[..., None] & together & ~own
    likeness = likeness.where(may, -2.0)
    group = of_target[:, None].expand_as(likeness)
    best = likeness.new_full((*frame.shape, scene.shape[1]), -2.0)
    best = best.scatter_reduce(2, group, likeness, "amax")
    return (may & (likeness == best.gather(2, group))).float()
