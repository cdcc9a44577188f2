"""Windows of a tile's patches, and the merging of those alike. No torch before one is called."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from ..contract.method import Keep
from .choose import take, unit

if TYPE_CHECKING:
    from torch import Tensor, device

    from ..contract.request import Segment
    from ..contract.view import View


def merge_alike(view: View, side: int, tokens: int | None, at_least: float | None) -> Keep | None:
    """In the tower, merge the windows of side x side patches that are most alike inside, each to
    one token, so that `tokens` of each tile are left.

    at_least: instead, those whose patches have at least this mean cosine; in all tiles as many as
    in the one that has the fewest, for which the host waits.
    """
    windows = _windows(view.request.tower.side, side, view.hidden.device)
    alike = _likeness(view.states, windows)
    if at_least is not None:
        merged = int((alike >= at_least).sum(-1).amin().item())
    else:
        merged = (view.count - (tokens or 0)) // (side**2 - 1)
    return _merge(view.states, windows, alike, merged) if merged else None


@functools.lru_cache(maxsize=16)
def segment_windows(segment: Segment, side: int, where: device) -> tuple[Tensor, int]:
    """The window int64 [n], side x side, of each token of a rectangle, and how many there are. What
    is left over at an edge belongs to the last one, newlines too."""
    import torch

    place = torch.arange(segment.tokens, device=where)
    rows, columns = (max(n // side, 1) for n in (segment.height, segment.width - segment.newline))
    row = (place // segment.width // side).clamp_max(rows - 1)
    column = (place % segment.width // side).clamp_max(columns - 1)
    return row * columns + column, rows * columns


@functools.lru_cache(maxsize=16)
def _windows(side: int, window: int, where: device) -> Tensor:
    """Patches of each whole window of window x window patches of a tile with `side` of them, int64
    [windows, window^2], in raster order inside."""
    import torch

    grid = torch.arange(side * side).view(side, side)
    rows = grid.unfold(0, window, window).unfold(1, window, window)
    return rows.reshape(-1, window**2).to(where)


def _likeness(patches: Tensor, windows: Tensor) -> Tensor:
    """Mean cosine similarity [N, windows] over the ordered pairs of patches [N, n, d] in each of
    windows [windows, m].

    The sum over pairs is |sum of unit vectors|^2 less the m pairs of a token with itself.
    """
    members, size = unit(patches)[:, windows], windows.shape[1]
    pairs = members.sum(2).pow(2).sum(-1) - members.pow(2).sum((-1, -2))
    return pairs / (size * (size - 1))


def _merge(patches: Tensor, windows: Tensor, alike: Tensor, count: int) -> Keep:
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
