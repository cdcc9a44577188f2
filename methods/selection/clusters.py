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
    distance = _distances_by_difference(pooled) if by_difference else distances(states)
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


def distances(states: Tensor) -> Tensor:
    """Euclidean distances [N, M, M] over sqrt(d) between states [N, M, d], by inner products."""
    centred = states - states.mean(1, keepdim=True)
    squares = (centred**2).sum(-1)
    inner = centred @ centred.transpose(1, 2)
    squared = squares[:, :, None] + squares[:, None] - 2 * inner
    euclidean: Tensor = squared.clamp_min(0).sqrt()
    return euclidean.div(states.shape[-1] ** 0.5)


def peak_scores(distance: Tensor, nearest: Tensor, noise: Tensor, among: Tensor) -> Tensor:
    """How much a point is the peak of a cluster [N, M], the more the better: its density by so many
    `nearest` int64 [N] points, itself one of them and as many there at least, times its distance
    to the nearest denser one.

    distance: [N, M, M]. noise: [M], as in `keep_and_merge`. among: bool [N, M], the points that
    there are; the others have -1.
    """
    import torch

    there = distance.where(among[:, :, None] & among[:, None], -1.0)
    farthest = there.flatten(1).amax(-1)[:, None, None]
    apart = there.where(there >= 0, farthest + 1)
    places = torch.arange(distance.shape[-1], device=distance.device)
    counted = places < nearest[:, None, None]
    squares = apart.sort(-1).values.square() * counted
    density = (-squares.sum(-1) / nearest[:, None].clamp_min(1)).exp() + noise
    return _peaks(apart, density.where(among, -1.0), farthest).where(among, -1.0)


def cluster_each(
    states: Tensor, clusters: Tensor, noise: Tensor, among: Tensor, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Cluster the points `among` bool [N, F, M] of states [N, F, M, d], those of each frame into so
    many `clusters` int64 [N, F], at most as many as they are. Density counts as many nearest points
    as there are clusters, at most `most`.

    Returns flags bool [N, F, M] on the centres and, at their places, means [N, F, M, d] and sizes
    [N, F, M] of their clusters, float32.
    """
    import torch

    points, wanted, there = states.flatten(0, 1), clusters.flatten(), among.flatten(0, 1)
    distance = distances(points)
    scores = peak_scores(distance, wanted.clamp_max(most), noise, there)
    centre = scores.argsort(-1, descending=True).argsort(-1) < wanted[:, None]
    nearest = distance.where(centre[:, None], distance.amax() + 1).argmin(-1)
    places = torch.arange(points.shape[1], device=states.device)
    cluster = places.where(centre, nearest)
    member = (cluster[..., None] == places) & there[..., None] & centre[:, None]
    sizes = member.sum(1).float()
    means = member.float().transpose(1, 2) @ points / sizes.clamp_min(1)[..., None]
    return centre.view_as(among), means.view_as(states), sizes.view_as(among)


def _peaks(distance: Tensor, density: Tensor, farthest: Tensor | None = None) -> Tensor:
    """Densities [N, M] times the distance to the nearest denser point, to the `farthest` [N, 1, 1]
    where there is none."""
    if farthest is None:
        farthest = distance.flatten(1).amax(-1)[:, None, None]
    denser = density[:, None, :] > density[:, :, None]
    return distance.where(denser, farthest).amin(-1) * density


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
    centres = _peaks(distance, density).topk(clusters, -1).indices
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
