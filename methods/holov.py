"""HoloV: every stretch of a picture keeps tokens, more of them the more there is to see."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from . import (
    Budget,
    Keep,
    Method,
    Plan,
    Request,
    Stage,
    View,
    knob,
    register,
    round_shares,
    scored_in_tower,
    take,
    top_in_groups,
    units,
)

if TYPE_CHECKING:
    from torch import Tensor, device

DENSITY = Fraction(1024, 576)  # crops times tokens kept, over all tokens
EPSILON = 1e-6


@register("holov")
@dataclass(frozen=True)
class HoloV(Method):
    """Crops share the budget by attention and variety, and keep what the class token attends to.

    The visual tokens are cut, as they follow one another, into crops of one size. A crop counts by
    the mean over its tokens of the attention of the tower's class token and of the variance of a
    token's cosines with the others of the crop, brought to the scale of the attention. So brought,
    the variances of a crop have the mean of its attention: as released, they change its share only
    where its tokens are all but orthogonal.

    Paper: https://arxiv.org/abs/2510.02912
    Code: obananas/HoloV

    Departures:
    - A crop that is given more than it has keeps all, and the best tokens of the others fill up;
      the released code fills up with zeros.
    - Kept tokens stay in their order; in the released code, by attention in a crop.
    - The number of crops follows from the budget as in the released code for Qwen2.5-VL, which
      gives the 16 for 64 of 576 tokens that its code for LLaVA has; no crop has one token.
    - Under anyres newlines go first; the released code drops them all.
    - Without a class token attention is what all patches attend to a patch on average, and a
      token's that of its patches; the released code for Qwen2.5-VL leaves it in the order of the
      tower's windows, and the tokens not.
    - Cosines are float32, in half precision in the released code: ties fall otherwise.
    """

    keep: Budget = knob(Fraction(1, 9), "visual tokens that stay: a count or a share")
    crops: int | None = knob(
        None, "crops the tokens are cut into; auto: 1024/576 of all over those kept", least=1
    )
    alpha: float = knob(0.09, "weight of the variance beside the attention", least=0)

    def plan(self, request: Request) -> Plan:
        budget = request.budget(self.keep)
        if budget == request.visual:
            return scored_in_tower(request, budget)
        flops = sum(2 * count * size**2 * request.hidden for count, size in self._cuts(request))
        return scored_in_tower(request, budget, flops=flops)

    def decide(self, view: View, stage: Stage) -> Keep | None:
        import torch

        request = view.request
        if stage.rows:
            view.set_tag("attention", units(view.rows[:, 0], request))
            return None
        budget, patches = request.budget(self.keep), _patches(request)
        attention, states, inside = view.tag("attention"), view.states, None
        if patches < view.count:  # the newlines behind all others
            places = view.newline.byte().argsort(dim=-1, stable=True)
            inside = places[:, :patches]
            attention, states = attention.gather(1, inside), take(states, inside)
        worth, start = [], 0
        for count, size in self._cuts(request):
            part = slice(start, start + count * size)
            shape = (-1, count, size, states.shape[-1])
            worth.append(self._worth(attention[:, part], states[:, part].reshape(shape)))
            start += count * size
        weights = torch.cat(worth, 1)
        weights = weights / (weights.sum(-1, keepdim=True) + EPSILON)
        kept = min(budget, patches)
        quota = round_shares(weights * kept, kept, weights)
        crop = _crops(tuple(self._cuts(request)), weights.device).expand_as(attention)
        chosen = top_in_groups(attention, crop, quota, kept)
        if inside is None:
            return chosen
        newlines = places[:, patches : patches + budget - kept]
        return Keep(torch.cat([inside.gather(1, chosen.index), newlines], 1).sort(-1).values)

    def _cuts(self, request: Request) -> list[tuple[int, int]]:
        """Crops and the tokens of each: first those with one more, if the sizes differ."""
        patches = _patches(request)
        crops = self.crops or int(DENSITY * patches / request.budget(self.keep))
        crops = max(1, min(crops, patches // 2))
        size, longer = divmod(patches, crops)
        return [(n, length) for n, length in ((longer, size + 1), (crops - longer, size)) if n]

    def _worth(self, attention: Tensor, states: Tensor) -> Tensor:
        """What crops count [N, c], by attention [N, c * m] and states [N, c, m, d]."""
        import torch

        others = max(states.shape[2] - 1, 1)
        wide = states.float()
        directions = wide / (wide.norm(dim=-1, keepdim=True) + EPSILON)
        cosines = directions @ directions.transpose(2, 3)
        cosines.diagonal(dim1=2, dim2=3).zero_()
        mean = cosines.sum(-1, keepdim=True) / others
        variance = (cosines - mean).square().sum(-1) / others
        seen = 1e3 * attention.view(variance.shape)
        scale = seen.mean(-1, keepdim=True) / (variance.mean(-1, keepdim=True) + EPSILON)
        return torch.addcmul(seen, variance, scale, value=self.alpha).mean(-1)


@functools.lru_cache(maxsize=16)
def _crops(cuts: tuple[tuple[int, int], ...], where: device) -> Tensor:
    """The crop int64 [n] of each patch, by how many crops of which size there are."""
    import torch

    sizes = [size for count, size in cuts for _ in range(count)]
    return torch.tensor(
        [crop for crop, size in enumerate(sizes) for _ in range(size)], device=where
    )


def _patches(request: Request) -> int:
    """Visual tokens that are no newlines."""
    return sum(part.patches for part in request.segments)
