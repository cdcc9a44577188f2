"""The few selections that many methods share. Tensors' own methods only: no torch import."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .method import Keep

if TYPE_CHECKING:
    from torch import Tensor


def top(scores: Tensor, count: int) -> Keep:
    """Keep the `count` highest of scores [B, n], in their order in the sequence."""
    return Keep(scores.topk(count, -1).indices.sort(-1).values)


def min_max(scores: Tensor) -> Tensor:
    """scores [B, n] stretched to [0, 1] row by row; a constant row becomes zeros."""
    low, high = scores.amin(-1, keepdim=True), scores.amax(-1, keepdim=True)
    return (scores - low) / (high - low).clamp_min(1e-12)


def unit(states: Tensor) -> Tensor:
    """states [..., d] in float32, scaled to length one."""
    wide = states.float()
    scaled: Tensor = wide / wide.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return scaled


def take(states: Tensor, index: Tensor) -> Tensor:
    """states [B, n, d] at index [B, k]: [B, k, d]."""
    return states.gather(1, index[..., None].expand(-1, -1, states.shape[-1]))
