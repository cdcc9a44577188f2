"""ToMe: like tokens are merged by bipartite matching, in the tower or before the decoder."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from . import (
    Budget,
    Keep,
    Keys,
    Method,
    Plan,
    Projected,
    Request,
    Stage,
    Tower,
    UnsupportedError,
    View,
    knob,
    register,
    take,
    unit,
)

if TYPE_CHECKING:
    from torch import Tensor


@register("tome")
@dataclass(frozen=True)
class ToMe(Method):
    """Merge the most alike pairs of visual tokens, a few in each block of the tower.

    Tokens alternate between two sets; each of the first has its most alike partner in the second,
    and the most alike pairs become one token, the mean weighted by how many patches each stands
    for. In the tower: between attention and FFN, by the mean of the keys over heads, equally many
    pairs in each block up to the one whose output is projected; attention weighs a token by its
    size. The class token stands before the first patch, which so is of the second set; the next
    block deals out anew what is left of the first set and, behind it, the second. `where=projected`
    merges once before the decoder, by the projected states, in as many passes as halving needs.

    Paper: https://arxiv.org/abs/2210.09461
    Code: facebookresearch/ToMe

    Departures:
    - The paper merges r tokens a block; here the pairs of all blocks follow from `keep`, the
      remainder in the first ones.
    - Merging before the decoder (where=projected) is a common baseline and not the paper's.
    - The class token is no candidate from the start, in place of a pair that never wins.
    - Behind the tower tokens stand in the order of their patches; in the released code, made for
      classification, as the last block leaves them, set by set.
    - Likeness and means are float32, in half precision in the released code: ties fall otherwise.
    """

    keep: Budget = knob(Fraction(1, 2), "visual tokens that stay: a count or a share")
    where: Literal["tower", "projected"] = knob(
        "tower", "merge in the tower, or before the decoder"
    )

    def plan(self, request: Request) -> Plan:
        budget = request.budget(self.keep)
        if budget == request.visual:
            return Plan()
        if self.where == "projected":
            width = request.hidden
            flops = sum(_match_flops(n, width) for n, _ in _halvings(request.visual, budget))
            return Plan([Stage(Projected(), budget, flops=flops)])
        tower = request.tower
        if not tower.prunes_by_cls:
            raise UnsupportedError(
                "tokens cannot be merged in this vision tower, for what follows needs its grid: "
                "where=projected merges before the decoder"
            )
        counts = self._counts(request)
        stages, before, head_dim = [], tower.patches, tower.width // tower.heads
        for layer, count in enumerate(counts):
            if count < before:
                flops = _match_flops(before, head_dim)
                stages.append(Stage(Tower(layer, inside=True), count, Keys(), flops))
            before = count
        return Plan(stages, proportional=True)

    def _counts(self, request: Request) -> list[int]:
        """Tokens of a tile behind each block up to the one whose output is projected."""
        tower = request.tower
        wanted = request.budget(self.keep) // tower.tiles
        blocks, left, counts = tower.feature_layer + 1, tower.patches, []
        for block in range(blocks):
            pairs = min(-(-(left - wanted) // (blocks - block)), left // 2)
            left -= pairs
            counts.append(left)
        if left > wanted or wanted * tower.tiles != request.budget(self.keep):
            raise UnsupportedError(
                f"each of {tower.tiles} tiles keeps as many tokens, no fewer than {left} of "
                f"{tower.patches}: keep={self.keep} does not divide so"
            )
        return counts

    def decide(self, view: View, stage: Stage) -> Keep | None:
        import torch

        sizes = view.sizes
        if sizes is None:
            sizes = view.states.new_ones(view.states.shape[:2]).float()
        if self.where == "projected":
            return _merge_to(view.states, sizes, stage.count)
        if view.has_tag("turn"):
            order = view.tag("turn").argsort(-1)
        else:
            order = torch.arange(view.count, device=sizes.device).expand(len(sizes), -1)
        first, second = order[:, 1::2], order[:, ::2]
        view.set_tag("turn", torch.cat([first, second], 1).argsort(-1))
        pairs = view.count - stage.count
        return _merge(view.keys.mean(1), view.states, sizes, first, second, pairs)


def _halvings(count: int, wanted: int) -> list[tuple[int, int]]:
    """Tokens before each pass, and the pairs that it merges: half of them at most."""
    passes = []
    while count > wanted:
        pairs = min(count // 2, count - wanted)
        passes.append((count, pairs))
        count -= pairs
    return passes


def _match_flops(count: int, width: int) -> int:
    """The cosines between both sets."""
    return 2 * (count - count // 2) * (count // 2) * width


def _merge(
    metric: Tensor, states: Tensor, sizes: Tensor, first: Tensor, second: Tensor, pairs: int
) -> Keep:
    """Merge the `pairs` most alike of the two sets; those that stay keep their order.

    metric [N, n, w], states [N, n, d], sizes [N, n]; first, second: places int64 [N, k].
    """
    import torch

    alike = unit(take(metric, first)) @ unit(take(metric, second)).transpose(1, 2)
    best, partner = alike.max(-1)
    chosen = best.topk(pairs, -1).indices
    merged, target = first.gather(1, chosen), second.gather(1, partner.gather(1, chosen))
    weighted = states.float() * sizes[..., None]
    moved = take(weighted, merged)
    weighted = weighted.scatter_add(1, target[..., None].expand_as(moved), moved)
    grown = sizes.scatter_add(1, target, sizes.gather(1, merged))
    gone = torch.zeros_like(sizes).scatter(1, merged, 1.0)
    index = gone.topk(sizes.shape[1] - pairs, -1, largest=False).indices.sort(-1).values
    left = grown.gather(1, index)
    features = (take(weighted, index) / left[..., None]).to(states.dtype)
    return Keep(index, features, sizes=left)


def _merge_to(states: Tensor, sizes: Tensor, wanted: int) -> Keep:
    """Merge pass by pass, even places into odd ones, until `wanted` tokens are left."""
    import torch

    index = None
    for count, pairs in _halvings(states.shape[1], wanted):
        places = torch.arange(count, device=states.device).expand(len(states), -1)
        keep = _merge(states, states, sizes, places[:, ::2], places[:, 1::2], pairs)
        assert keep.features is not None
        assert keep.sizes is not None
        states, sizes = keep.features, keep.sizes
        index = keep.index if index is None else index.gather(1, keep.index)
    assert index is not None
    return Keep(index, states, sizes=sizes)
