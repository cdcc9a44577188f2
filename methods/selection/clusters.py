"""Clusters of tokens, and the means that stand for them. No torch before one is called."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..contract.method import Keep
from .choose import take

if TYPE_CHECKING:
    from torch import Tensor

    from ..contract.view import View

NOISE = 1e-6  # of a density, breaks ties between equally dense tokens


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
    by_difference, noise = view.published, view.random(pool.shape[1])
    pooled = take(view.states, pool)
    states = pooled.float()
    squared = _squared_by_difference(pooled) if by_difference else squared_distances(states)
    cluster, member = _density_peaks(squared, states.shape[-1], clusters, noise)
    means = member @ states / member.sum(-1, keepdim=True)
    best = ranks[:, :clusters].scatter_reduce(1, cluster, ranks, "amin", include_self=False)
    places = ranked[:, count:].gather(1, best)
    flops = density_merge_flops(states.shape[-1], pool.shape[1], clusters)[by_difference]
    return replace(_followed_by(view.states, stay, places, means), flops=flops)


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


def squared_distances(states: Tensor) -> Tensor:
    """Squared Euclidean distances [N, M, M] between states [N, M, d], by inner products."""
    centred = states - states.mean(1, keepdim=True)
    inner = centred @ centred.transpose(1, 2)
    squares = inner.diagonal(dim1=1, dim2=2)
    squared: Tensor = (squares[:, :, None] + squares[:, None]).sub(inner, alpha=2).clamp_min(0)
    return squared


def peak_scores(
    squared: Tensor, width: int, points: Tensor, most: int, noise: Tensor, gone: Tensor
) -> Tensor:
    """How much a point is the peak of a cluster [N, M], the more the better: its density by its
    `most` nearest points, itself one of them, or by as few as `points` int64 [N] says, times its
    distance to the nearest denser one.

    squared: distances [N, M, M] of states of this width, squared; there they count over its root.
    noise: uniform [M], breaks ties between equally dense points. gone: bool [N, M], the points that
    are not there; they have -1.
    """
    import torch

    count = squared.shape[-1]
    absent = gone[:, None] | gone[..., None]
    farthest = squared.masked_fill(absent, 0.0).flatten(1).amax(-1)
    apart = torch.where(absent, farthest[:, None, None], squared)
    nearest = points.clamp(1, min(most, count))[:, None]
    near = apart.topk(min(most, count), -1, largest=False).values.cumsum(-1)
    sums = near.gather(-1, (nearest - 1)[:, None].expand(-1, count, -1))[..., 0]
    density = (sums / (nearest * -width)).exp().add(noise, alpha=NOISE).masked_fill(gone, -1.0)
    return _peaks(squared, density, farthest).masked_fill(gone, -1.0)


def cluster_each(
    states: Tensor, clusters: Tensor, noise: Tensor, gone: Tensor, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Cluster the points of states [N, F, M, d] that are not `gone` bool [N, F, M], those of each
    frame into so many `clusters` int64 [N, F], at most as many as they are. Density counts as many
    nearest points as there are clusters, at most `most`.

    Returns flags bool [N, F, M] on the centres and, at their places, means [N, F, M, d] and sizes
    [N, F, M] of their clusters, float32.
    """
    import torch

    points, wanted, absent = states.flatten(0, 1), clusters.flatten(), gone.flatten(0, 1)
    squared = squared_distances(points)
    scores = peak_scores(squared, points.shape[-1], wanted, most, noise, absent)
    centre = scores.argsort(-1, descending=True).argsort(-1) < wanted[:, None]
    squared.diagonal(dim1=1, dim2=2).fill_(-1.0)  # a centre is of its own cluster
    cluster = squared.masked_fill(~centre[:, None], float("inf")).argmin(-1, keepdim=True)
    member = torch.zeros_like(squared).scatter(2, cluster, (~absent).float()[..., None])
    sizes = member.sum(1)
    means = member.transpose(1, 2) @ points / sizes.clamp_min(1)[..., None]
    return centre.view_as(gone), means.view_as(states), sizes.view_as(gone)


def _peaks(squared: Tensor, density: Tensor, farthest: Tensor) -> Tensor:
    """Densities [N, M] times the distance to the nearest denser point, to the farthest where there
    is none; squared: distances [N, M, M], and the `farthest` [N] of them, squared."""
    denser = density[:, None] > density[..., None]
    return squared.where(denser, farthest[:, None, None]).amin(-1).sqrt() * density


def _squared_by_difference(states: Tensor) -> Tensor:
    """The same in float32 from all differences [N, M, M, d] in the dtype of the states, as released
    code has it: gigabytes on LLaVA-NeXT."""
    difference = states[:, :, None] - states[:, None]
    squared: Tensor = difference.norm(dim=-1).float().square()
    return squared


def _density_peaks(
    squared: Tensor, width: int, clusters: int, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Clusters of M points by density peaks, with the density of their nearest neighbours
    (DPC-kNN): the one int64 [N, M] of each point, and float32 [N, C, M], 1.0 for its members.

    squared: distances [N, M, M] of states of this width, squared. noise: uniform [M], added to the
    density, so that no two are equal. A centre is of its own cluster: it may have exact duplicates.
    """
    import torch

    nearest = squared.topk(clusters, -1, largest=False).values
    density = (nearest.mean(-1) / -width).exp().add(noise, alpha=NOISE)
    farthest = squared.flatten(1).amax(-1)
    centres = _peaks(squared, density, farthest).topk(clusters, -1).indices
    to_centre = take(squared, centres).scatter(2, centres[..., None], -1.0)
    cluster = to_centre.argmin(1)
    return cluster, torch.zeros_like(to_centre).scatter(1, cluster[:, None], 1.0)


def _followed_by(states: Tensor, stay: Tensor, index: Tensor, merged: Tensor) -> Keep:
    """Keep the states [N, n, d] at `stay` [N, k], and behind them the merged [N, C, d], which stand
    at `index` [N, C]."""
    import torch

    places = torch.cat([stay, index], 1)
    features = torch.cat([take(states, stay), merged.to(states.dtype)], 1)
    flags = torch.arange(places.shape[1], device=places.device) >= stay.shape[1]
    return Keep(places, features, flags)
