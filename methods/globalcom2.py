"""GlobalCom2: the thumbnail of a picture says how many tokens each of its crops may keep."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from . import (
    Budget,
    BudgetError,
    Encoder,
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
    knob,
    register,
    round_shares,
    top,
    top_in_groups,
)

if TYPE_CHECKING:
    from torch import Tensor, device

TEMPERATURE = 10.0


@register("globalcom2")
@dataclass(frozen=True)
class GlobalCom2(Method):
    """The thumbnail keeps its best tokens, and each crop more of its own the more it shows there.

    A token's score is the product of the class token's query and its key in the tower's last
    layer, before the softmax. A crop's ratio grows with the softmax over crops of the thumbnail's
    scores in its place. In a crop, a token counts by its own score and by that of its place in the
    thumbnail, enlarged bilinearly, each of length one over the crop. Newlines stay.

    Paper: https://arxiv.org/abs/2501.05179
    Code: xuyang-liu16/GlobalCom2

    Departures:
    - The ratio follows from `keep`, newlines included; the released one is 0.25 of the patches
      beside all newlines.
    - Crops share what the thumbnail leaves of the budget by their ratios and sizes, rounded by
      largest remainder; the released code rounds each down, so that its count varies.
    - A crop whose ratio is above one keeps all, and the best tokens of the others fill up.
    - Kept tokens stay in their order and place; in the released code those of the thumbnail stand
      by score, and where there is padding those of a crop slip among the newlines.
    - Newlines of rows of padding are not there to be kept; under flat there are none, padding
      counts as tokens, and the released code prunes nothing.
    - Scores are float32, in half precision in the released code: ties fall otherwise.
    """

    keep: Budget = knob(Fraction(1, 4), "visual tokens that stay: a count or a share")

    def plan(self, request: Request) -> Plan:
        tower, budget = request.tower, request.budget(self.keep)
        if not (tower.has_cls and all(tower.crops)):
            raise UnsupportedError(
                "it shares the budget between a thumbnail and the crops behind it by what a class "
                "token attends to, and this model has not both (LLaVA-NeXT has)"
            )
        if budget == request.visual:
            return Plan()
        self._thumbnail(request)
        rows = Rows("cls", softmax=False)
        return Plan(
            [Stage(Tower(tower.layers - 1), tower.patches, rows), Stage(Projected(), budget)],
            published=Published(tower_maps=range(tower.layers)),
        )

    def decide(self, view: View, stage: Stage) -> Keep | None:
        import torch

        if stage.rows:
            view.set_tag("score", view.rows[:, 0])
            return None
        scores, request = view.tag("score"), view.request
        tower, base = request.tower, request.tower.patches
        thumbnail, own = scores[:, :base], scores[:, base:]
        kept = self._thumbnail(request)
        rest = request.budget(self.keep) - kept
        crops = _crops(request.grid[-1], tower, scores.device)
        wide = thumbnail.view(-1, 1, tower.side, tower.side)
        size = crops.height, crops.width
        large = torch.nn.functional.interpolate(wide, size, mode="bilinear", align_corners=False)
        both = torch.stack([own, large.flatten(1)[:, crops.place]], 1)
        length = (both[:, :, None] * crops.member).norm(dim=-1).clamp_min(1e-12)
        worth = (both / length[..., crops.number]).sum(1)
        newlines = request.segments[-1].tokens - request.segments[-1].patches
        shares = crops.size * _ratios(thumbnail, crops.weight)
        shares = shares / shares.sum(-1, keepdim=True) * (rest - newlines)
        quota = round_shares(shares, rest - newlines)
        if newlines:
            quota = torch.nn.functional.pad(quota, (0, 1), value=newlines)
        in_crops = base + top_in_groups(worth, crops.number.expand_as(own), quota, rest).index
        in_thumbnail = top(thumbnail, kept).index if kept else in_crops[:, :0]
        return Keep(torch.cat([in_thumbnail, in_crops], 1))

    def _thumbnail(self, request: Request) -> int:
        """Tokens that the thumbnail keeps."""
        patches = sum(part.patches for part in request.segments)
        newlines = request.visual - patches
        left = request.budget(self.keep) - newlines
        if left < 1:
            raise BudgetError(
                f"keep={self.keep} means {left + newlines} visual tokens, and the {newlines} "
                "newlines always stay: give more"
            )
        return request.tower.patches * left // patches


class _Crops(NamedTuple):
    """The crops of a picture, C of them.

    height, width: of all joined, in patches. number: int64 [n], the crop of each token behind the
    thumbnail, C of a newline. place: int64 [n], where each stands among the joined patches.
    member: bool [C + 1, n]. size: int64 [C], the patches of each. weight: [C, patches], of
    the thumbnail's scores in what the softmax over crops takes.
    """

    height: int
    width: int
    number: Tensor
    place: Tensor
    member: Tensor
    size: Tensor
    weight: Tensor


@functools.lru_cache(maxsize=16)
def _crops(last: Segment, tower: Encoder, where: device) -> _Crops:
    """By the last segment of a picture: its last crop, or all joined, their padding cut away."""
    import torch

    (rows, columns), side = tower.crops, tower.side
    count, joined = rows * columns, last.newline
    height = last.height if joined else rows * side
    width = last.width - 1 if joined else columns * side
    above, beside = (rows * side - height) // 2, (columns * side - width) // 2
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width + joined), indexing="ij")
    number = (row + above) // side * columns + (column + beside) // side
    number = number.masked_fill(column == width, count).flatten()
    place = (row * width + column.clamp_max(width - 1)).flatten()
    if not joined:  # one crop behind another
        place = place.gather(0, number.argsort(stable=True))
        number = number.sort(stable=True).values
    member = number == torch.arange(count + 1)[:, None]
    line = torch.arange(side)
    upper = (line // max(side // rows, 1)).clamp_max(rows - 1)
    left = (line // max(side // columns, 1)).clamp_max(columns - 1)
    cell = (upper[:, None] * columns + left).flatten() == torch.arange(count)[:, None]
    found = (number, place, member, member.sum(-1)[:-1], cell / TEMPERATURE)
    return _Crops(height, width, *(tensor.to(where) for tensor in found))


def _ratios(thumbnail: Tensor, weight: Tensor) -> Tensor:
    """The ratios of the crops [N, C] over the mean one, by the thumbnail's scores [N, n]."""
    share = (thumbnail[:, None] * weight).sum(-1).softmax(-1)
    return share + (1 - 1 / len(weight))
