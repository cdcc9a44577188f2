"""GlobalCom2: the thumbnail of a picture says how many tokens each of its crops may keep."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

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
    from torch import Tensor

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
        crop, row, column, size = _places(view, tower)
        wide = thumbnail.view(-1, 1, tower.side, tower.side)
        large = torch.nn.functional.interpolate(wide, size, mode="bilinear", align_corners=False)
        seen = large.flatten(1).gather(1, row * size[1] + column)
        groups = tower.crops[0] * tower.crops[1] + 1  # the last are the newlines
        member = crop[:, None] == torch.arange(groups, device=crop.device)[:, None]
        worth = _of_length_one(own, member, crop) + _of_length_one(seen, member, crop)
        newlines = request.segments[-1].tokens - request.segments[-1].patches
        shares = member.sum(-1)[:, :-1] * _ratios(thumbnail, tower)
        shares = shares * ((rest - newlines) / shares.sum(-1, keepdim=True))
        counts = round_shares(shares, rest - newlines, shares - shares.floor())
        quota = torch.nn.functional.pad(counts, (0, 1), value=newlines)
        in_crops = base + top_in_groups(worth, crop, quota, rest).index
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


def _places(view: View, tower: Encoder) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
    """Of each token behind the base tile its crop, or their number for a newline, and its row and
    column in the joined crops; and the height and width of these."""
    rows, columns = tower.crops
    side, joined = tower.side, view.request.segments[-1]
    segment, row, column = (
        places[:, tower.patches :] for places in (view.segment, view.row, view.column)
    )
    if not joined.newline:  # one crop behind another
        crop = segment - 1
        row, column = crop // columns * side + row, crop % columns * side + column
        return crop, row, column, (rows * side, columns * side)
    height, width = joined.height, joined.width - 1
    above, beside = (rows * side - height) // 2, (columns * side - width) // 2  # padding, cut away
    crop = (row + above) // side * columns + (column + beside) // side
    newline = view.newline[:, tower.patches :]
    return (
        crop.masked_fill(newline, rows * columns),
        row,
        column.clamp_max(width - 1),
        (height, width),
    )


def _ratios(thumbnail: Tensor, tower: Encoder) -> Tensor:
    """The ratios of the crops [N, crops] over the mean one, by the thumbnail's scores [N, n]."""
    import torch

    (rows, columns), side = tower.crops, tower.side
    line = torch.arange(side, device=thumbnail.device)
    upper = (line // max(side // rows, 1)).clamp_max(rows - 1)
    left = (line // max(side // columns, 1)).clamp_max(columns - 1)
    cell = (upper[:, None] * columns + left).flatten()
    cells = torch.arange(rows * columns, device=thumbnail.device)[:, None]
    sums = thumbnail[:, None].where(cell == cells, 0).sum(-1)
    share = (sums / TEMPERATURE).softmax(-1)
    return 1 + share - share.mean(-1, keepdim=True)


def _of_length_one(values: Tensor, member: Tensor, crop: Tensor) -> Tensor:
    """values [N, n] over their length in their crop, by member [N, crops, n] and crop [N, n]."""
    squares = (values[:, None] * member).square().sum(-1)
    return values / squares.sqrt().clamp_min(1e-12).gather(1, crop)
