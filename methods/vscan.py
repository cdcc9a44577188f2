"""VScan: what the vision tower sees early and late, the rest merged in, and a cut at half depth."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from . import (
    Budget,
    Encoder,
    Entering,
    Keep,
    Method,
    Plan,
    Projected,
    Published,
    Request,
    Rows,
    Segment,
    Stage,
    Tower,
    UnsupportedError,
    View,
    group_rank,
    in_parts,
    knob,
    register,
    segment_windows,
    shares,
    sums_of_nearest,
    take,
    top,
    unit,
    units,
)

if TYPE_CHECKING:
    from torch import Tensor

SHALLOW = Fraction(5, 24)  # the layer of the local scan, of those of the tower
NEWLINE = -2.0  # a score below that of each patch, in a full window or not


@register("vscan")
@dataclass(frozen=True)
class VScan(Method):
    """Keep what the class token attends to early, by windows, and late; prune again at half depth.

    Half of the tokens are the local ones: of each window, equally many of those that the class
    token attends to most in a shallow layer. The others are the global ones, by the layer that
    feeds the projector. Behind the projector each other token is averaged into the kept one that
    it resembles most. At half the decoder's depth a third of them stays, by the last token's
    attention in the layer to come. Every tile keeps its share.

    Paper: https://arxiv.org/abs/2505.22654
    Code: Tencent/SelfEvolvingAgent (VScan)

    Departures:
    - Tokens before and after the cut are three to one, as published (96 and 32, a mean of 64); a
      budget above two thirds cuts in the decoder alone. For half of the tokens of Qwen2.5-VL three
      fifths and two fifths are published.
    - Where windows cannot share equally, each has the next whole number at most, and the best of
      all are kept, as in the released code for Qwen2.5-VL; its code for LLaVA keeps fewer.
    - The cut is at half the decoder's depth, as published for 32 and 28 layers, and the local scan
      at 5/24 of the tower's: layer 5 of CLIP, 7 of 32 layers.
    - Under anyres the joined tiles are one part beside the base tile, with windows and merging of
      its own, and newlines go first; the released code scans tile by tile and keeps them.
    - Without a class token attention is what all patches attend to a patch on average, and a
      token's that of its patches, as in the released code for Qwen2.5-VL.
    - At the cut queries and keys are rotated; in the released code for Qwen2.5-VL they are not.
      With M-RoPE kept tokens keep their positions, as there.
    - Likeness is a matrix product in float32, in the released code and under `published` one
      element by element; what is merged is summed by a matrix product, there by scattering.
    """

    keep: Budget = knob(Fraction(1, 9), "mean over layers of the visual tokens entering a layer")
    layer: int | None = knob(None, "decoder layer that is cut before; auto: half the depth")
    window: int | None = knob(
        None, "side of the windows, in tokens; auto: 6 with a class token, else 4", least=1
    )

    def plan(self, request: Request) -> Plan:
        tower, budget = request.tower, request.budget(self.keep)
        if tower.feature_layer < 1:
            raise UnsupportedError(
                "it scans two layers of the vision tower, and the projector is given the output of "
                "the first (vision_feature_layer)"
            )
        if budget == request.visual:
            return Plan(positions="compact")
        middle, first, second = self._counts(request)
        cut = Stage(Entering(middle), second, Rows("last", of="next"))
        if first == request.visual:
            return Plan([cut], positions="compact", published=Published())
        rows = Rows(tower.query)
        sums = sum(  # of what is merged, and as many FLOPs its likeness
            2 * max(part.patches - count, 0) * count * request.hidden
            for part, count in zip(request.segments, shares(request, first), strict=True)
        )
        return Plan(
            [
                Stage(Tower(_shallow(tower)), tower.patches, rows),
                Stage(Tower(tower.feature_layer), tower.patches, rows),
                Stage(Projected(), first, flops=2 * sums, published_flops=sums),
                cut,
            ],
            positions="compact",
            published=Published(tower_maps=range(tower.layers if tower.has_cls else 0)),
        )

    def decide(self, view: View, stage: Stage) -> Keep | None:
        request = view.request
        if isinstance(stage.site, Entering):
            return top(view.rows[:, 0], stage.count)
        if isinstance(stage.site, Tower):
            name = "local" if stage.layer == _shallow(request.tower) else "global"
            view.set_tag(name, units(view.rows[:, 0], request), newline=NEWLINE)
            return None
        early, late = view.tag("local"), view.tag("global")
        side = self.window or (6 if request.tower.has_cls else 4)
        scan = functools.partial(_scan, side, view.published)
        counts = shares(request, self._counts(request)[1])
        return in_parts(request.segments, counts, scan, early, late, view.states)

    def _counts(self, request: Request) -> tuple[int, int, int]:
        """The decoder layer that is cut before, and the visual tokens before and from there."""
        depth, budget = request.layers, request.budget(self.keep)
        middle = depth // 2 if self.layer is None else request.layer(self.layer, published=16)
        first = min(request.visual, round(Fraction(3 * depth * budget, 2 * middle + depth)))
        second = round(Fraction(depth * budget - first * middle, depth - middle))
        return (middle, first, second) if second > 0 else (middle, budget, budget)


def _shallow(tower: Encoder) -> int:
    """The tower's layer of the local scan."""
    return min(round(tower.layers * SHALLOW), tower.feature_layer - 1)


def _scan(
    side: int, plain: bool, part: Segment, count: int, early: Tensor, late: Tensor, states: Tensor
) -> Keep:
    """`count` of the tokens of a part by their early and late attention [N, n], the patches that
    go averaged into those that stay; plain: whose likeness is taken element by element."""
    import torch

    local = min(count, part.patches) // 2
    side = min(side, max(part.height, part.width))
    window, windows = segment_windows(part, side, early.device)
    full = group_rank(early, window.expand_as(early), windows) >= -(-local // windows)
    scanned = early.add(full, alpha=-1).topk(local, -1).indices  # of a full window last
    others = late.scatter(1, scanned, float("-inf")).topk(count - local, -1).indices
    stay = torch.cat([scanned, others], 1).sort(-1).values
    ranked = late.scatter(1, stay, float("inf")).argsort(-1, descending=True)
    kept, merged = take(states, stay), take(states, ranked[:, count : part.patches])
    if not merged.shape[1]:
        return Keep(stay, kept, sizes=torch.ones_like(stay, dtype=torch.float32))
    if plain:
        likeness = torch.cosine_similarity(merged[:, :, None], kept[:, None], dim=-1)
    else:
        likeness = unit(merged) @ unit(kept).transpose(1, 2)
    sums, counts = sums_of_nearest(likeness, merged)
    sizes = counts + 1
    return Keep(stay, ((kept + sums) / sizes[..., None]).to(states.dtype), sizes=sizes)
