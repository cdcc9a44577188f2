"""Clusters of tokens, and the means that stand for them. No torch before one is called."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..contract.method import Keep
from .choose import take

if TYPE_CHECKING:
    from torch import Tensor

    from ..contract.view import View


def keep_and_merge(view: View, scores: Tensor, count: int, points: int, clusters: int) -> Keep:
    """Keep the `count` highest of scores [N, n]; behind them follow the means of `clusters` of the
    next `points` tokens, by density peaks, if there are any.

    A merged token has the place of its best scored member. Under `published` distances are taken as
    in released code.
    """
    ranked = scores.argsort(dim=-1, descending=True, stable=True)
    stay = ranked[:, :count].sort(-1).values
    if not clusters:
        return Keep(stay)
    pool, ranks = ranked[:, count : count + points].sort(-1)
    by_difference = view.published
    pooled = take(view.states, pool)
    states = pooled.float()
    distance = _distances_by_difference(pooled) if by_difference else _distances(states)
    noise = view.random(distance.shape[-1]) * 1e-6  # breaks ties between equally dense tokens
    member = _density_peaks(distance, clusters, noise)
    means = (member.float() @ states) / member.sum(-1, keepdim=True).clamp_min(1)
    best = ranks[:, None].where(member, ranks.shape[-1]).argmin(-1)
    flops = density_merge_flops(states.shape[-1], pool.shape[1], clusters)[by_difference]
    return replace(_followed_by(view.states, stay, pool.gather(1, best), means), flops=flops)


def component_weights(states: Tensor, start: Tensor, steps: int) -> Tensor:
    """How much each token weighs in each principal component [N, n, q]: tokens [N, n, d] are the
    variables, and the dimensions of their states, squashed, the samples. By orthogonal iteration
    from `start` [n, q]."""
    import torch

    squashed = states.float().sigmoid()
    centred = squashed - squashed.mean(-1, keepdim=True)
    covariance = centred @ centred.transpose(1, 2)
    basis = start.expand(len(states), -1, -1)
    for _ in range(steps):
        basis = torch.linalg.qr(covariance @ basis).Q
    return basis.abs()


def sums_of_nearest(likeness: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    """Each of states [N, m, d] goes to the one of c tokens that it is most like, by likeness
    [N, m, c]: the sums of what each is given, float32 [N, c, d], and of how many [N, c]."""
    import torch

    member = torch.zeros_like(likeness, dtype=torch.float32)
    member = member.scatter(2, likeness.argmax(-1, keepdim=True), 1.0)
    return member.transpose(1, 2) @ states.float(), member.sum(1)


def density_merge_flops(width: int, points: int, clusters: int) -> tuple[int, int]:
    """Matrix products of `keep_and_merge`, and of it by difference: the clusters' means, and
    inner products of all pairs of points, which distances by difference do without."""
    sums = 2 * clusters * points * width
    return sums + 2 * points * points * width, sums


def _distances(states: Tensor) -> Tensor:
    """Euclidean distances [N, M, M] over sqrt(d) between states [N, M, d], by inner products."""
    centred = states - states.mean(1, keepdim=True)
    squares = (centred**2).sum(-1)
    inner = centred @ centred.transpose(1, 2)
    squared = squares[:, :, None] + squares[:, None] - 2 * inner
    euclidean: Tensor = squared.clamp_min(0).sqrt()
    return euclidean.div(states.shape[-1] ** 0.5)


def _distances_by_difference(states: Tensor) -> Tensor:
    """The same in float32 from all differences [N, M, M, d] in the dtype of the states, as released
    code has it: gigabytes on LLaVA-NeXT."""
    difference = states[:, :, None] - states[:, None]
    distance: Tensor = difference.norm(dim=-1).float()
    return distance.div(states.shape[-1] ** 0.5)


def _density_peaks(distance: Tensor, clusters: int, noise: Tensor) -> Tensor:
    """The members bool [N, C, M] of clusters of M points, by density peaks, with the density of
    their nearest neighbours (DPC-kNN).

    distance: [N, M, M]. noise: [M], added to the density, so that no two are equal. A centre is of
    its own cluster: it may have exact duplicates.
    """
    import torch

    nearest = distance.topk(clusters, -1, largest=False).values
    density = (-(nearest**2).mean(-1)).exp() + noise
    denser = density[:, None, :] > density[:, :, None]
    farthest = distance.flatten(1).amax(-1)[:, None, None]
    gap = distance.where(denser, farthest).amin(-1)
    centres = (gap * density).topk(clusters, -1).indices
    to_centre = distance.gather(1, centres[..., None].expand(-1, -1, distance.shape[-1]))
    numbers = torch.arange(clusters, device=distance.device)[:, None]
    cluster = to_centre.argmin(1).scatter(1, centres, numbers.T.expand_as(centres))
    return cluster[:, None] == numbers


def _followed_by(states: Tensor, stay: Tensor, index: Tensor, merged: Tensor) -> Keep:
    """Keep the states [N, n, d] at `stay` [N, k], and behind them the merged [N, C, d], which stand
    at `index` [N, C]."""
    import torch

    places = torch.cat([stay, index], 1)
    features = torch.cat([take(states, stay), merged.to(states.dtype)], 1)
    flags = torch.arange(places.shape[1], device=places.device) >= stay.shape[1]
    return Keep(places, features, flags)
