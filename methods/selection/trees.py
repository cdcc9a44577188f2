"""Tokens of a video that hang on those of the frame before. No torch before one is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .choose import group_rank, round_shares, unit

if TYPE_CHECKING:
    from torch import Tensor


def hang_on_trees(
    tokens: Tensor, taken: Tensor, scene: Tensor, threshold: float, least: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Hang tokens [N, F, T, d], but for those `taken` bool [N, F, T], on those of the frame before
    in their scene int64 [N, F], where the cosine is above the threshold; of a scene its part of
    `least` tokens, by frames, stays at least.

    Returns the sums of trees over one more than what hangs directly [N, F, T, d]; flags bool
    [N, F, T] on what hangs; and how many hang directly [N, F, T].
    """
    import torch

    normed = unit(tokens)
    likeness = normed[:, 1:] @ normed[:, :-1].transpose(2, 3)
    apart = (scene[:, 1:] != scene[:, :-1])[..., None]
    barred = (taken[:, 1:] | apart)[..., None] | taken[:, :-1, None]
    best = likeness.masked_fill(barred, -1.0).max(-1)
    alike = torch.nn.functional.pad(best.values, (0, 0, 1, 0), value=-1.0)
    hung = _hung(alike, scene, threshold, least)
    on = torch.zeros_like(likeness).scatter(
        3, best.indices[..., None], hung[:, 1:, :, None].to(likeness.dtype)
    )
    direct = torch.nn.functional.pad(on.sum(2), (0, 0, 0, 1))
    sums = list(tokens.unbind(1))
    for frame in range(tokens.shape[1] - 1, 0, -1):
        given = on[:, frame - 1].transpose(1, 2) @ sums[frame]
        sums[frame - 1] = sums[frame - 1] + given
    return torch.stack(sums, 1) / (1 + direct)[..., None], hung, direct


def _hung(alike: Tensor, scene: Tensor, threshold: float, least: int) -> Tensor:
    """Flags bool [N, F, T] on what hangs: the scores `alike` [N, F, T] above the threshold; where
    too many of a scene are, the highest, one fewer than could."""
    count, size = alike.shape[1:]
    above = alike > threshold
    together = scene[:, :, None] == scene[:, None]
    length = together.sum(-1)
    most = length * (count * size - least) // count
    hanging = (together * above.sum(-1)[:, None]).sum(-1)
    group = scene[..., None].expand_as(alike).flatten(1)
    rank = group_rank(alike.flatten(1), group, count).view_as(alike)
    return above & (rank < most.add(hanging > most, alpha=-1)[..., None])


def share_by_scene(gone: Tensor, scene: Tensor, total: int) -> Tensor:
    """`total` shared among frames, int64 [N, F]: a scene int64 [N, F] has its part by frames, and
    its frames theirs by the tokens that are not `gone` bool [N, F, T]; by largest remainder."""
    together, tokens = scene[:, :, None] == scene[:, None], (~gone).sum(-1)
    whole = (together * tokens[:, None]).sum(-1).clamp_min(1) * scene.shape[1]
    share = (tokens * together.sum(-1) * total).double() / whole  # equal ones are so to the bit
    counts: Tensor = round_shares(share, total).long()
    return counts
