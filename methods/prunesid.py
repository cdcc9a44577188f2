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
    knob,
    parts,
    register,
    take,
    unit,
)

if TYPE_CHECKING:
    from torch import Tensor

GROUP = 4  # tokens that stay to a group
STEPS = 16  # of orthogonal iteration
ROUNDS = 32  # of suppression: enough unless more tokens than that form a chain, each like the next


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
    """

    departures = (
        "Components come from 16 steps of orthogonal iteration from a fixed start, whose QR is not "
        "among the FLOPs; those of the released code come from a random sketch and differ from run "
        "to run.",
        "Tokens stay in their order, the class token before them; in the released code they are in "
        "the order of their groups, and the class tokens of all tiles but the first come last.",
        "Suppression ends after 32 rounds, so that the host need not wait for the last: behind a "
        "longer chain of tokens, each like the next, one may survive that should not.",
        "On a tower with a class token, every tile keeps the same count, the nearest to its share "
        "of the budget.",
        "Under anyres it acts as on Qwen2-VL, on the base tile and on the joined tiles with their "
        "newlines; the released code prunes them in the tower and leaves the newlines out.",
        "The compression ratio is the same for every picture; the released code has it so as well, "
        "the paper also lets it follow the picture.",
        "On Qwen2-VL fewer than 16 tokens may stay, in the released code they may not.",
        "With M-RoPE kept tokens keep their positions.",
    )

    keep: Budget = knob(Fraction(1, 9), "visual tokens that stay: a count or a share")

    def plan(self, request: Request) -> Plan:
        count, encoder = request.budget(self.keep), request.encoder
        if count == request.visual:
            return Plan(positions="compact")
        if encoder is None or not _in_tower(encoder):
            width = request.hidden
            flops = sum(p.alike * _flops(p.size, width, p.share) for p in parts(request, count))
            stage = Stage(Projected(), count, flops=flops)
            return Plan([stage], positions="compact", published=Published())
        each = max(1, round(count / encoder.tiles))
        flops = _flops(encoder.patches, encoder.width, each)
        kept = each * encoder.tiles
        note = f"{kept} visual tokens stay, not {count}: all tiles keep {each}"
        return Plan(
            [Stage(Tower(encoder.feature_layer), each, Rows("cls"), flops)],
            positions="compact",
            published=Published(tower_maps=range(encoder.layers)),
            note=note if kept != count else "",
        )

    def decide(self, view: View, stage: Stage) -> Keep | None:
        import torch

        assert stage.tokens is not None
        if isinstance(stage.site, Tower):
            return _with_cls(view, stage.tokens)
        kept = []
        for part in parts(view.request, stage.tokens):
            start = view.random(part.size, _groups(part.share))
            states = part.rows(view.states)
            weights, group = _components(states, start).max(-1)
            likeness = _likeness(states)
            total, pairs = likeness.sum((1, 2)), part.size**2
            # The mean of the triangle over all of the square, as in the released code.
            mean = (total + part.size) / 2 / pairs
            threshold = max(_ratio(part.share, part.size), 1.0) * mean
            alike = likeness > threshold[:, None, None]
            chosen = _choose(weights, group, alike, part.share, part.share)
            kept.append(part.places(chosen))
        return Keep(torch.cat(kept, 1).sort(-1).values)


def _in_tower(encoder: Encoder) -> bool:
    return encoder.has_cls and encoder.mergeable and encoder.feature_layer >= 0


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
    group = _components(view.states, view.random(size, _groups(count))).argmax(-1)
    likeness = _likeness(view.states)
    mean = (likeness.sum((1, 2)) - size) / (size * (size - 1))
    alike = likeness > _ratio(count, size) * mean[:, None, None]
    chosen = _choose(view.rows[:, 0], group, alike, count, max(1, count - 1)).sort(-1).values
    if count == 1:
        return Keep(chosen)
    index = torch.cat([torch.zeros_like(chosen[:, :1]), chosen], 1)
    features = torch.cat([view.cls, take(view.states, chosen)], 1)
    return Keep(index, features, torch.arange(count, device=index.device) < 1)


def _components(states: Tensor, start: Tensor) -> Tensor:
    """How much each token weighs in each principal component [N, n, q]: tokens [N, n, d] are the
    variables, and the dimensions of their states, squashed, the samples. start: [n, q]."""
    import torch

    squashed = states.float().sigmoid()
    centred = squashed - squashed.mean(-1, keepdim=True)
    covariance = centred @ centred.transpose(1, 2)
    basis = start.expand(len(states), -1, -1)
    for _ in range(STEPS):
        basis = torch.linalg.qr(covariance @ basis).Q
    return basis.abs()


def _likeness(states: Tensor) -> Tensor:
    """Cosines of all pairs [N, n, n]."""
    states = unit(states)
    return states @ states.transpose(1, 2)


def _choose(scores: Tensor, group: Tensor, alike: Tensor, budget: int, count: int) -> Tensor:
    """Places [N, count], of each group its share: first what nothing better and alike suppresses,
    then the rest, both by falling score [N, n].

    group: int64 [N, n]. alike: bool [N, n, n]. budget: what the bounds of shares follow.
    """
    import torch

    order = scores.argsort(dim=-1, descending=True, stable=True)
    rank = order.argsort(-1)
    rivals = alike & (group[:, None] == group[..., None]) & (rank[:, None] < rank[..., None])
    survives = torch.ones_like(group, dtype=torch.bool)
    for _ in range(ROUNDS):  # the first r of each chain are right after r rounds
        survives = ~(rivals & survives[:, None]).any(-1)
    member = group[..., None] == torch.arange(_groups(budget), device=group.device)
    survivors = (member & survives[..., None]).sum(1)
    shares = _shares(member.sum(1), survivors, budget, count)
    first = survives.gather(1, order).int().argsort(dim=-1, descending=True, stable=True)
    order = order.gather(1, first)
    listed = take(member, order)
    chosen = (listed & (listed.cumsum(1) <= shares[:, None])).any(-1)
    return order.gather(1, chosen.float().topk(count, -1).indices)


def _shares(sizes: Tensor, survivors: Tensor, budget: int, count: int) -> Tensor:
    """`count` shared among groups, all int64 [N, q]: one each, and the others in proportion to
    their survivors, up to a bound; what a bound leaves goes to those with most survivors."""
    import torch

    least = sizes.clamp_max(1)
    most = survivors.clamp_max(5 * math.ceil(budget / 64))
    raised = torch.arange(budget + 1, device=sizes.device)[:, None] + most[:, None]
    short = (raised.minimum(sizes[:, None]).sum(-1) < budget).sum(-1, keepdim=True)
    most = (most + short).minimum(sizes)
    others = count - least.sum(-1, keepdim=True)
    up_to = (others * survivors.cumsum(-1) / survivors.sum(-1, keepdim=True)).round().long()
    shares = (least + up_to.diff(dim=-1, prepend=torch.zeros_like(up_to[:, :1]))).minimum(most)
    order = survivors.argsort(dim=-1, descending=True, stable=True)
    room = (most - shares).gather(1, order)
    left = count - shares.sum(-1, keepdim=True)
    more = (left - room.cumsum(-1) + room).clamp_min(0).minimum(room)
    return shares.scatter_add(1, order, more)
