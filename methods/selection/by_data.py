"""Counts that the data tells: by a threshold, by a rank. No torch before one is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..contract.method import Keep

if TYPE_CHECKING:
    from torch import Tensor

    from ..contract.plan import Stage
    from ..contract.view import View


def keep_reaching(
    view: View,
    stage: Stage,
    worth: Tensor,
    always: Tensor,
    threshold: float | None,
    wanted: Callable[[], int],
) -> Keep:
    """Keep what of worth [N, n], none of it negative, reaches a threshold, and what is `always`
    kept, bool [N, n]; of all samples as many as of the one that keeps most.

    threshold: None for one that `wanted` tokens of the first request reach, fixed from then on.
    Where the stage plans its count, the worthiest are kept, those that are always kept first. Else
    the host waits for it, and so it does under `published`: released code reads every count.
    """
    ranked = worth + always * (1 + worth.amax(-1, keepdim=True))
    if threshold is None:
        threshold = view.solved("threshold", lambda: _threshold(ranked, wanted(), always))
    count = stage.tokens
    if count is None or view.published:
        stays = (worth >= threshold) | always
        read = int(stays.sum(-1).amax().clamp_min(1).item())
        count = read if count is None else count  # half precision has ties at a threshold
    return Keep(ranked.topk(count, -1).indices.sort(-1).values)


def largest_rank(rows: Tensor) -> int:
    """The largest rank of the matrices rows [N, T, n]. Its decomposition makes the host wait."""
    import torch

    return int(torch.linalg.matrix_rank(rows).amax().item())


def _threshold(ranked: Tensor, count: int, always: Tensor) -> float:
    """A threshold that `count` of the first row of ranked [N, n] reach: midway to the next one
    below; just above the others, where those that are always kept are enough."""
    flagged = int(always[0].sum().item())
    falling = ranked[0].sort(descending=True).values
    if max(count, flagged) >= len(falling):
        return 0.0
    if count <= flagged:
        return float(falling[flagged].item()) * (1 + 1e-6) + 1e-12
    return (float(falling[count - 1].item()) + float(falling[count].item())) / 2
