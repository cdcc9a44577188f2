"""Windows of a tile's patches, and the merging of those alike. No torch before one is called."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from ..contract.method import Keep
from .choose import take, unit

if TYPE_CHECKING:
    from torch import Tensor, device


@functools.lru_cache(maxsize=16)
def tile_windows(side: int, window: int, where: device) -> Tensor:
    """Patches of each whole window of window x window patches of a tile with `side` of them, int64
    [windows, window^2], in raster order inside."""
    import torch

    grid = torch.arange(side * side).view(side, side)
    rows = grid.unfold(0, window, window).unfold(1, window, window)
    return rows.reshape(-1, window**2).to(where)


def likeness_within(patches: Tensor, windows: Tensor) -> Tensor:
    """Mean cosine similarity [N, windows] over the ordered pairs of patches [N, n, d] in each of
    windows [windows, m].

    The sum over pairs is |sum of unit vectors|^2 less the m pairs of a token with itself.
    """
    members, size = unit(patches)[:, windows], windows.shape[1]
    pairs = members.sum(2).pow(2).sum(-1) - members.pow(2).sum((-1, -2))
    return pairs / (size * (size - 1))


def merge_windows(patches: Tensor, windows: Tensor, alike: Tensor, count: int) -> Keep:
    """The `count` most alike of windows [windows, m], by `alike` [N, windows], as one token each,
    which stands at its last patch, most alike first; then all other patches [N, n, d]."""
    import torch

    tiles, width = patches.shape[0], patches.shape[-1]
    chosen = alike.argsort(-1, descending=True)[:, :count]
    members = windows[chosen]  # [N, count, m]
    means = take(patches, members.flatten(1)).view(tiles, count, -1, width).mean(2)
    gone = torch.zeros(patches.shape[:2], device=patches.device)
    gone = gone.scatter(1, members.flatten(1), 1.0)
    others = patches.shape[1] - count * windows.shape[1]
    rest = gone.topk(others, -1, largest=False).indices.sort(-1).values
    index = torch.cat([members[..., -1], rest], 1)
    features = torch.cat([means.to(patches.dtype), take(patches, rest)], 1)
    return Keep(index, features, torch.arange(index.shape[1], device=index.device) < count)
