"""FlashVID: what is seen and unlike in each frame, and trees of alike tokens through frames."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

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
    hang_on_trees,
    knob,
    register,
    scenes,
    share_by_scene,
    spread_out_in_rows,
    take,
    top,
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
    weighed by attention in the tower and, on some models, by likeness to the scene. The others hang
    on the token of the frame before that they resemble, if they do; what then stands alone in a
    frame, or is the root of a tree, is clustered by density peaks. Deep in the decoder three tenths
    stay, by the last token's attention in the layer before. Whether likeness counts, and how many
    scenes there are at least, is by default as published: with M-RoPE as for Qwen2.5-VL and
    Qwen3-VL, without as for LLaVA.

    Paper: https://arxiv.org/abs/2602.08024
    Code: Fanziyang-v/FlashVID

    Departures:
    - Tokens before and after the cut are ten to three, as published, and their mean over layers is
      `keep`: with 28 layers a quarter more enters, as published, else what that takes. For Qwen3-VL
      a cut before layer 28 of 36 to a tenth is published.
    - Clusters are shared among frames by largest remainder; the released code rounds up each,
      so that its count varies.
    - A scene of one frame clusters what was not chosen, as others do; in the released code all
      of it.
    - What was chosen is out; where likeness counts, the released code may choose it again.
    - As in the released code, a root is divided by one more than the tokens merged into it
      directly, not by those of its whole tree.
    - Attention is that of the class token, where there is one; no released model has it.
    - The newline behind the frames of LLaVA-OneVision stays, within the budget; so do, on
      Qwen3-VL, the marks before and behind each frame, which the released code drops.
    - Likeness, trees and means are float32, in the released code in the dtype of the model.
    """

    video = True

    keep: Budget = knob(Fraction(1, 10), "mean over layers of the visual tokens entering a layer")
    chosen: Fraction = knob(
        Fraction(7, 10), "share of a frame's tokens that are chosen one by one", least=0, most=1
    )
    threshold: float = knob(0.8, "cosine above which a token hangs on another", least=-1, most=1)
    scenes: int | None = knob(None, "least scenes of a video; auto: 4 with M-RoPE, else 8", least=1)
    cut: float = knob(0.9, "cosine of frames' means, below it a scene begins", least=-1, most=1)
    choice: Literal["attention", "scene"] | None = knob(
        None, "attention, or likeness to the scene, too; auto: attention with M-RoPE, else scene"
    )
    layer: int | None = knob(None, "decoder layer that is cut before; auto: the published 20")

    def plan(self, request: Request) -> Plan:
        frames, tower = frames_of(request), request.tower
        if frames.budget(request, self.keep) == frames.tokens:
            return Plan()
        layer, first, second = self._counts(request)
        mapped = range(0 if request.merger == 1 else tower.layers - 1, tower.layers)
        released = Published(maps=range(layer - 1, layer), tower_maps=mapped)
        behind = 2 * bool(frames.others)
        cut = Stage(Entering(layer), second, Rows("last"), launches=2 + behind)
        if first == request.visual:
            return Plan([cut], published=released)
        each, clusters = self._split(frames, first - frames.others)
        pairs = frames.count * frames.size**2
        by_scene = each > 0 and self._by_scene(request)
        choosing = bool(each) * pairs + by_scene * (frames.tokens + frames.count**2)
        merging = bool(clusters) * (4 * pairs - 2 * frames.size**2)
        launches = _launches(frames.count, each, clusters, by_scene) + bool(request.breaks) + behind
        flops = 2 * request.hidden * (choosing + merging)
        site, reading = Tower(tower.feature_layer), int(request.merger > 1)
        seen = Stage(site, tower.patches, Rows(tower.query), launches=reading)
        merged = Stage(Projected(), first, flops=flops, launches=launches)
        return Plan([seen, merged, cut], published=released)

    def decide(self, view: View, stage: Stage) -> Keep | None:
        frames = frames_of(view.request)
        if isinstance(stage.site, Entering):
            first = view.count - frames.others
            best = top(view.rows[:, 0, :first], stage.count - frames.others)
            return Keep(frames.with_others(best.index, first))
        if stage.rows:
            view.set_tag("attention", units(view.rows[:, 0], view.request))
            return None
        states = view.states
        tokens = frames.inside(states).float()
        each, clusters = self._split(frames, stage.count - frames.others)
        means = tokens.mean(2)
        scene = scenes(means, self.scenes or (8 if view.request.compactable else 4), self.cut)
        worth = frames.inside(view.tag("attention"))
        if each and self._by_scene(view.request):
            worth = worth * _likeness(tokens, means, scene)
        picked = spread_out_in_rows(tokens, worth, each)
        if not clusters:
            return Keep(frames.with_others(picked.sort(-1).values))
        taken = frames.flags(picked)
        least = each * frames.count + clusters
        trees, hung, kids = hang_on_trees(tokens, taken, scene, self.threshold, least)
        gone = taken | hung
        quota = share_by_scene(gone, scene, clusters)
        centre, means, sizes = cluster_each(trees, quota, view.random(frames.size), gone, NEAREST)
        places = centre.flatten(1).float().topk(clusters).indices
        merged = (sizes + kids > 1).flatten(1).gather(1, places)
        return frames.keep(states, picked, places, take(means.flatten(1, 2), places), merged)

    def _by_scene(self, request: Request) -> bool:
        """Whether likeness to the scene counts."""
        return self.choice == "scene" or (self.choice is None and request.compactable)

    def _counts(self, request: Request) -> tuple[int, int, int]:
        """The layer that is cut before, and the visual tokens before and from there."""
        depth, budget = request.layers, request.budget(self.keep)
        layer = request.layer(self.layer, published=20)
        first = min(request.visual, max(1, round(depth * budget / (layer + CUT * (depth - layer)))))
        second = round(Fraction(depth * budget - first * layer, depth - layer))
        return (layer, first, min(second, first)) if second > 0 else (layer, budget, budget)

    def _split(self, frames: Frames, left: int) -> tuple[int, int]:
        """Of `left` tokens those of each frame that are chosen, and clusters in all."""
        each = min(int(-(-left * self.chosen // frames.count)), left // frames.count)
        return each, left - each * frames.count


def _launches(frames: int, each: int, clusters: int, by_scene: bool) -> int:
    """Operators that choosing `each` of a frame, and clustering, call."""
    choosing = 5 * each + (each == 1) + 7 * by_scene
    if not clusters:
        return choosing + 19
    return choosing + 2 * frames - (frames == 1) + (134 if each else 128)


def _likeness(tokens: Tensor, means: Tensor, scene: Tensor) -> Tensor:
    """Products [N, F, T] of tokens [N, F, T, d] with the mean of their scene int64 [N, F], which is
    that of the means [N, F, d] of its frames."""
    together = (scene[:, :, None] == scene[:, None]).float()
    events = together @ means / together.sum(-1, keepdim=True)
    return (tokens @ events[..., None])[..., 0]
