"""Tokens of a video that hang on those of the frame before. No torch before one is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .choose import group_rank, round_shares, unit

if TYPE_CHECKING:
    from torch import Tensor


def hang_on_trees(
    tokens: Tensor, free: Tensor, scene: Tensor, threshold: float, least: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Hang tokens [N, F, T, d] that are `free` bool [N, F, T] on those of the frame before in their
    scene int64 [N, F], where the cosine is above the threshold; of a scene its part of `least`
    tokens, by frames, stays at least.

    Returns the sums of trees over one more than what hangs directly [N, F, T, d]; flags bool
    [N, F, T] on what hangs; and how many hang directly [N, F, T].
    """
    import torch

    count, size = free.shape[1:]
    normed = unit(tokens)
    likeness = normed[:, 1:] @ normed[:, :-1].transpose(2, 3)
    may = free[:, 1:, :, None] & free[:, :-1, None]
    may = may & (scene[:, 1:] == scene[:, :-1])[..., None, None]
    best = likeness.where(may, -1.0).max(-1)
    alike = torch.nn.functional.pad(best.values, (0, 0, 1, 0), value=-1.0)
    hung = (alike > threshold) & _allowed(alike, scene, threshold, least)
    on = best.indices[..., None] == torch.arange(size, device=tokens.device)
    on = (on & hung[:, 1:, :, None]).float()
    direct = torch.nn.functional.pad(on.sum(2), (0, 0, 0, 1))
    sums = list(tokens.unbind(1))
    for frame in range(count - 1, 0, -1):
        given = on[:, frame - 1].transpose(1, 2) @ sums[frame]
        sums[frame - 1] = sums[frame - 1] + given
    return torch.stack(sums, 1) / (1 + direct)[..., None], hung, direct


def _allowed(alike: Tensor, scene: Tensor, threshold: float, least: int) -> Tensor:
    """Flags bool [N, F, T] on what may hang: where too many of a scene are above the threshold, the
    highest of the scores `alike` [N, F, T], one fewer than could."""
    count, size = alike.shape[1:]
    together = scene[:, :, None] == scene[:, None]
    length = together.sum(-1)
    most = length * size - (length * least + count - 1) // count
    hanging = (together * (alike > threshold).sum(-1)[:, None]).sum(-1)
    group = scene[..., None].expand_as(alike).flatten(1)
    rank = group_rank(alike.flatten(1), group, count).view_as(alike)
    return (hanging <= most)[..., None] | (rank < most[..., None] - 1)


def share_by_scene(pool: Tensor, scene: Tensor, total: int) -> Tensor:
    """`total` shared among frames, int64 [N, F]: a scene int64 [N, F] has its part by frames, and
    its frames theirs by the tokens of their pool, bool [N, F, T]; by largest remainder."""
    together = (scene[:, :, None] == scene[:, None]).long()
    tokens = pool.sum(-1)
    whole = (together * tokens[:, None]).sum(-1).clamp_min(1) * scene.shape[1]
    share = (tokens * together.sum(-1) * total).double() / whole  # equal ones are so to the bit
    counts: Tensor = round_shares(share, total).long()
    return counts
