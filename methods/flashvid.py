"""FlashVID: what is seen and unlike in each frame, and trees of alike tokens through frames."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from . import (
    Budget,
    Entering,
    Frames,
    Keep,
    Method,
    Plan,
    Projected,
    Published,
    Request,
    Rows,
    Stage,
    Tower,
    View,
    cluster_each,
    frames_of,
    greedy,
    group_rank,
    knob,
    register,
    round_shares,
    scenes,
    take,
    top,
    unit,
    units,
)

if TYPE_CHECKING:
    from torch import Tensor

CUT = Fraction(3, 10)  # of the tokens that enter the decoder, those that stay behind the cut
NEAREST = 7  # points that density counts, at most


@register("flashvid")
@dataclass(frozen=True)
class FlashVID(Method):
    """Keep what is seen and unlike in each frame, merge the rest along time, and prune once more.

    Most of a frame's tokens are chosen one by one, each the farthest from those chosen, distances
    weighed by attention in the tower and by likeness to the scene. The others hang on the token of
    the frame before that they resemble, if they do; what then stands alone in a frame, or is the
    root of a tree, is clustered by density peaks. Deep in the decoder three tenths stay, by the
    last token's attention in the layer before.

    Paper: https://arxiv.org/abs/2602.08024
    Code: Fanziyang-v/FlashVID

    Departures:
    - Tokens before and after the cut are ten to three, as published, and their mean over layers is
      `keep`: with 28 layers a quarter more enters, as published, else what that takes.
    - Clusters are shared among frames by largest remainder; the released code rounds up each,
      so that its count varies.
    - A scene of one frame clusters what was not chosen, as others do; in the released code all
      of it.
    - What was chosen is out; the released code may choose it again.
    - As in the released code, a root is divided by one more than the tokens merged into it
      directly, not by those of its whole tree.
    - Attention is that of the class token, where there is one; no released model has it.
    - The newline behind the frames of LLaVA-OneVision stays, within the budget; so do, on
      Qwen3-VL, the marks before and behind each frame, which the released code drops.
    - Likeness, trees and means are float32, in the released code in the dtype of the model.
    """

    video = True

    keep: Budget = knob(Fraction(1, 10), "mean over layers of the visual tokens entering a layer")
    chosen: Fraction = knob(Fraction(7, 10), "share of a frame's tokens that are chosen one by one")
    threshold: float = knob(0.8, "cosine above which a token hangs on one of the frame before")
    scenes: int = knob(8, "scenes that a video has at least")
    cut: float = knob(0.9, "cosine of two frames' means, below which another scene begins")
    layer: int | None = knob(None, "decoder layer that is cut before; auto: the published 20")

    def __post_init__(self) -> None:
        if not 0 <= self.chosen <= 1:
            raise ValueError(f"chosen={self.chosen} is not from 0 to 1")
        if self.scenes < 1:
            raise ValueError(f"scenes={self.scenes} is below 1")

    def plan(self, request: Request) -> Plan:
        frames, tower = frames_of(request), request.tower
        if frames.budget(request, self.keep) == frames.tokens:
            return Plan()
        layer, first, second = self._counts(request)
        cut = Stage(Entering(layer), second, Rows("last"), launches=2 + 6 * bool(frames.others))
        if first == request.visual:
            return Plan([cut], published=Published(maps=range(layer - 1, layer)))
        each, clusters = self._split(frames, first - frames.others)
        square = frames.size**2
        flops = frames.count * frames.size + frames.count**2 + frames.count * square  # chosen
        trees = 2 * (frames.count - 1) * square + 2 * frames.count * square
        launches = _launches(frames.count, each, clusters) + bool(request.breaks)
        site = Tower(tower.feature_layer)
        flops = 2 * request.hidden * (flops * bool(each) + trees * bool(clusters))
        mapped = range(0 if request.merger == 1 else tower.layers - 1, tower.layers)
        return Plan(
            [
                Stage(site, tower.patches, Rows(tower.query), launches=int(request.merger > 1)),
                Stage(Projected(), first, flops=flops, launches=launches),
                cut,
            ],
            published=Published(maps=range(layer - 1, layer), tower_maps=mapped),
        )

    def decide(self, view: View, stage: Stage) -> Keep | None:
        assert stage.tokens is not None
        if isinstance(stage.site, Entering):
            scores = view.rows[:, 0]
            if frames_of(view.request).others:
                scores = scores.masked_fill(view.newline, 2.0)  # above any weight
            return top(scores, stage.tokens)
        if stage.rows:
            view.set_tag("attention", units(view.rows[:, 0], view.request))
            return None
        frames, states = frames_of(view.request), view.states
        tokens = frames.inside(states).float()
        each, clusters = self._split(frames, stage.tokens - frames.others)
        scene = scenes(tokens.mean(2), self.scenes, self.cut)
        picked = _picked(tokens, frames.inside(view.tag("attention")), scene, each)
        flags = picked.new_zeros(picked.shape[0], frames.tokens).bool().scatter(1, picked, True)
        if not clusters:
            return Keep(frames.with_others(picked.sort(-1).values))
        free = ~frames.inside(flags)
        trees, hung, kids = self._trees(tokens, free, scene, each * frames.count + clusters)
        pool = free & ~hung
        quota = _quota(pool, scene, clusters)
        noise = view.random(frames.size) * 1e-6
        centre, means, sizes = (
            part.view(pool.shape + part.shape[2:])
            for part in cluster_each(
                trees.flatten(0, 1), quota.flatten(), noise, pool.flatten(0, 1), NEAREST
            )
        )
        places = centre.flatten(1).float().topk(clusters).indices
        merged = ((sizes > 1) | (kids > 0)).flatten(1).gather(1, places)
        return frames.keep(states, picked, places, take(means.flatten(1, 2), places), merged)

    def _counts(self, request: Request) -> tuple[int, int, int]:
        """The layer that is cut before, and the visual tokens before and from there."""
        depth, budget = request.layers, request.budget(self.keep)
        layer = request.layer(self.layer, published=20)
        weight = layer + CUT * (depth - layer)
        first = min(request.visual, max(1, round(Fraction(depth * budget) / weight)))
        second = round(Fraction(depth * budget - first * layer, depth - layer))
        return (layer, first, min(second, first)) if second > 0 else (layer, budget, budget)

    def _split(self, frames: Frames, left: int) -> tuple[int, int]:
        """Of `left` tokens those of each frame that are chosen, and clusters in all."""
        wanted = -(-left * self.chosen // frames.count)
        each = min(int(wanted), left // frames.count)
        return each, left - each * frames.count

    def _trees(
        self, tokens: Tensor, free: Tensor, scene: Tensor, least: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Hang tokens [N, F, T, d] that are `free` bool [N, F, T] on those of the frame before in
        their scene, of which `least` tokens in proportion to its frames stay.

        Returns the tokens with what hangs on them, which of them hang, and how many directly.
        """
        import torch

        count, size = free.shape[1:]
        normed = unit(tokens)
        likeness = normed[:, 1:] @ normed[:, :-1].transpose(2, 3)
        may = free[:, 1:, :, None] & free[:, :-1, None]
        may = may & (scene[:, 1:] == scene[:, :-1])[..., None, None]
        best = likeness.where(may, -1.0).max(-1)
        alike = torch.nn.functional.pad(best.values, (0, 0, 1, 0), value=-1.0)
        hung = (alike > self.threshold) & _allowed(alike, scene, self.threshold, least)
        on = best.indices[..., None] == torch.arange(size, device=tokens.device)
        on = (on & hung[:, 1:, :, None]).float()
        kids = torch.nn.functional.pad(on.sum(2), (0, 0, 0, 1))
        sums = list(tokens.unbind(1))
        for frame in range(count - 1, 0, -1):
            given = on[:, frame - 1].transpose(1, 2) @ sums[frame]
            sums[frame - 1] = sums[frame - 1] + given
        return torch.stack(sums, 1) / (1 + kids)[..., None], hung, kids


def _launches(frames: int, each: int, clusters: int) -> int:
    """Operators that choosing `each` of a frame, and clustering, call."""
    choosing = 5 * each + (each == 1)
    if not clusters:
        return choosing + 39
    return choosing + 2 * frames - (frames == 1) + (192 if each else 178)


def _picked(tokens: Tensor, attention: Tensor, scene: Tensor, each: int) -> Tensor:
    """Places int64 [N, F * each] of those chosen of tokens [N, F, T, d], in each frame one by one:
    their distances count by attention [N, F, T] and by likeness to the mean of the scene."""
    import torch

    size, batch = tokens.shape[2], len(tokens)
    if not each:
        return torch.zeros(batch, 0, dtype=torch.int64, device=tokens.device)
    together = (scene[:, :, None] == scene[:, None]).float()
    events = together @ tokens.mean(2) / together.sum(-1, keepdim=True)
    worth = attention * (tokens @ events[..., None])[..., 0]
    normed = unit(tokens).flatten(0, 1)
    distance = (1 - normed @ normed.transpose(1, 2)) * worth.flatten(0, 1)[:, None]
    nearest = distance.topk(2, 1, largest=False).values[:, -1]

    def after(step: int, place: Tensor) -> Tensor:
        nonlocal nearest
        row = take(distance, place)[:, 0]
        nearest = torch.minimum(nearest, row) if step else row
        return nearest

    first = torch.arange(0, tokens.shape[1] * size, size, device=tokens.device)
    chosen = greedy(nearest, each, after).view(batch, -1, each)
    return (chosen + first[:, None]).flatten(1)


def _allowed(alike: Tensor, scene: Tensor, threshold: float, least: int) -> Tensor:
    """Flags bool [N, F, T] on what may hang, of scores `alike` [N, F, T]: the best of a scene, so
    that its part of the `least` tokens of all frames stays."""

    count, size = alike.shape[1:]
    together = scene[:, :, None] == scene[:, None]
    length = together.sum(-1)
    most = length * size - (length * least + count - 1) // count
    hanging = (together * (alike > threshold).sum(-1)[:, None]).sum(-1)
    group = scene[..., None].expand_as(alike).flatten(1)
    rank = group_rank(alike.flatten(1), group, count).view_as(alike)
    return (hanging <= most)[..., None] | (rank < most[..., None] - 1)


def _quota(pool: Tensor, scene: Tensor, clusters: int) -> Tensor:
    """Clusters of each frame int64 [N, F]: a scene has its share by frames, and its frames theirs
    by the tokens of their pool, bool [N, F, T]."""
    together = (scene[:, :, None] == scene[:, None]).long()
    tokens = pool.sum(-1)
    whole = (together * tokens[:, None]).sum(-1).clamp_min(1) * scene.shape[1]
    share = (tokens * together.sum(-1) * clusters).double() / whole  # equal ones are so to the bit
    return round_shares(share, clusters, share - share.floor())
