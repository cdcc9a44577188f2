"""PruneSID: tokens in groups by principal component, and of each group those that differ."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from . import (
    Budget,
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
    View,
    component_weights,
    cosines,
    knob,
    parts,
    register,
    suppressed,
    take,
)

if TYPE_CHECKING:
    from torch import Tensor

GROUP = 4  # tokens that stay to a group
STEPS = 16  # of orthogonal iteration
ROUNDS = 32  # of suppression: enough unless more tokens than that form a chain, each like the next
OPERATORS = 49 + 2 * STEPS + 2 * (ROUNDS - 1)  # that choosing the tokens of a part calls


@register("prunesid")
@dataclass(frozen=True)
class PruneSID(Method):
    """Group tokens by principal component; from each group keep the best that are not alike.

    A token is of the component that it weighs most in. In a group the best goes on and suppresses
    those more alike to it than a threshold, and so on; groups with more of such survivors keep
    more. In towers with a class token it acts behind the layer that the projector reads, tile by
    tile: the best are those that the class token attends to, and it stays itself. Elsewhere it acts
    before the decoder, as the released code does on Qwen2-VL: the best weigh most.

    Paper: https://arxiv.org/abs/2603.09480
    Code: ZhengyaoFang/PruneSID

    Departures:
    - Components come from 16 steps of orthogonal iteration from a fixed start, whose QR is not
      among the FLOPs; those of the released code come from a random sketch and differ from run to
      run.
    - Tokens stay in their order, the class token before them; in the released code they are in the
      order of their groups (on Qwen2-VL up to 150 tokens), and the class tokens of all tiles but
      the first come last.
    - Likeness is float32, in half precision in the released code: ties fall otherwise.
    - Suppression ends after 32 rounds, so that the host need not wait for the last: behind a longer
      chain of tokens, each like the next, one may survive that should not.
    - On a tower with a class token, every tile keeps the same count, the nearest to its share of
      the budget.
    - Under anyres it acts as on Qwen2-VL, on the base tile and on the joined tiles with their
      newlines; the released code prunes them in the tower and leaves the newlines out.
    - The compression ratio is the same for every picture; the released code has it so as well, the
      paper also lets it follow the picture.
    - On Qwen2-VL fewer than 16 tokens may stay, in the released code they may not.
    - With M-RoPE kept tokens keep their positions.
    """

    keep: Budget = knob(Fraction(1, 9), "visual tokens that stay: a count or a share")

    def plan(self, request: Request) -> Plan:
        count, encoder = request.budget(self.keep), request.encoder
        if count == request.visual:
            return Plan(positions="compact")
        if encoder is None or not _in_tower(encoder):
            width = request.hidden
            chosen = parts(request, count)
            flops = sum(p.alike * _flops(p.size, width, p.share) for p in chosen)
            launches = sum(OPERATORS + 1 + (p.alike > 1) for p in chosen) + 2
            stage = Stage(Projected(), count, flops=flops, launches=launches)
            return Plan([stage], positions="compact", published=Published())
        each = max(1, round(count / encoder.tiles))
        flops = _flops(encoder.patches, encoder.width, each)
        kept = each * encoder.tiles
        note = f"{kept} visual tokens stay, not {count}: all tiles keep {each}"
        launches = OPERATORS + (5 if each > 1 else 1)
        return Plan(
            [Stage(Tower(encoder.feature_layer), each, Rows("cls"), flops, launches=launches)],
            positions="compact",
            published=Published(tower_maps=range(encoder.layers)),
            note=note if kept != count else "",
        )

    def decide(self, view: View, stage: Stage) -> Keep | None:
        import torch

        if isinstance(stage.site, Tower):
            return _with_cls(view, stage.count)
        kept = []
        for part in parts(view.request, stage.count):
            start = view.random(part.size, _groups(part.share))
            states = part.rows(view.states)
            weights, group = component_weights(states, start, STEPS).max(-1)
            # The mean of the triangle over all of the square, as in the released code.
            above = max(_ratio(part.share, part.size), 1.0) / 2 / part.size**2
            chosen = _choose(
                weights, group, states, above, part.size, budget=part.share, count=part.share
            )
            kept.append(part.places(chosen))
        return Keep(torch.cat(kept, 1).sort(-1).values)


def _in_tower(encoder: Encoder) -> bool:
    return encoder.prunes_by_cls and encoder.feature_layer >= 0


def _groups(share: int) -> int:
    return max(1, share // GROUP)


def _ratio(share: int, tokens: int) -> float:
    """How far above the mean likeness the threshold is: a 32nd of the share of 576."""
    return 18 * share / tokens


def _flops(tokens: int, width: int, share: int) -> int:
    """Matrix products: covariance and likeness of all pairs, and orthogonal iteration."""
    return tokens**2 * (4 * width + 2 * STEPS * _groups(share))


def _with_cls(view: View, count: int) -> Keep:
    """The class token of each tile, and `count` - 1 of its patches."""
    import torch

    size = view.count
    start = view.random(size, _groups(count))
    group = component_weights(view.states, start, STEPS).argmax(-1)
    above = _ratio(count, size) / (size * (size - 1))  # of the mean of distinct pairs
    attention, left = view.rows[:, 0], max(1, count - 1)
    chosen = _choose(attention, group, view.states, above, -size, budget=count, count=left)
    chosen = chosen.sort(-1).values
    if count == 1:
        return Keep(chosen)
    index = torch.nn.functional.pad(chosen, (1, 0))
    features = torch.cat([view.cls, take(view.states, chosen)], 1)
    return Keep(index, features, torch.eye(1, count, dtype=torch.bool, device=index.device)[0])


def _choose(
    scores: Tensor, group: Tensor, states: Tensor, above: float, more: int, budget: int, count: int
) -> Tensor:
    """Places int64 [N, count], of each group its share: first what nothing better and alike
    suppresses, then the rest, both by falling score [N, n].

    Tokens are alike whose cosine is over `above` times `more` and the sum of all cosines.
    group: int64 [N, n]. states: [N, n, d]. budget: what the bounds of shares follow.

    Shares are one each, and the others in proportion to a group's survivors, up to a bound, which
    is raised for all until the budget is met; what a bound leaves goes to those with most
    survivors. All is worked out token by token, in few operators.
    """
    import torch

    groups, size = _groups(budget), group.shape[1]
    place = scores.argsort(dim=-1, descending=True, stable=True).argsort(-1)
    same = group[..., None] == group[:, None]
    better = same & (place[:, None] < place[..., None])
    beyond = cosines(states)
    beyond = beyond.sub(beyond.sum((1, 2), keepdim=True), alpha=above)
    dropped = suppressed(better & (beyond > above * more), ROUNDS)
    turn = place.add(dropped, alpha=size)
    rank = (same & (turn[:, None] < turn[..., None])).sum(-1)  # in its group, survivors first
    member = group[:, None] == torch.arange(-1, groups, device=group.device)[:, None]
    survivors = (member > dropped[:, None]).sum(-1)  # of each group, behind one without tokens
    upto = survivors.cumsum(-1)
    others = count - survivors.count_nonzero(-1)[:, None]  # beside the first of each group
    share = (others * upto / upto[:, -1:]).round().diff(dim=-1).gather(1, group)
    survivors = survivors[:, 1:].gather(1, group)
    over = rank - survivors.clamp_max(5 * math.ceil(budget / 64))
    allowed = over <= over.sort(-1).values[:, budget - 1 : budget].clamp_min(-1)
    # First the shares, then those of the group with most survivors; of several such, of the first.
    steps = groups * size
    last = rank.add(group, alpha=size).add(survivors, alpha=-steps)
    last = last.add(rank <= share, alpha=-2 * steps * size).add(allowed, alpha=-4 * steps * size)
    return last.topk(count, -1, largest=False).indices
