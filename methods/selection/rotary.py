"""What rotary positions alone make of attention. No torch before one is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ..contract.view import View


def rotary_products(view: View) -> Tensor:
    """The scaled products [N, T, n] of the text behind the picture with its visual tokens, where
    every query and key is all ones before rotary positions turn it."""
    import torch

    assert view.rotary is not None
    cos, sin = (table.float().expand(view.hidden.shape[0], -1, -1) for table in view.rotary)
    half, width = cos.shape[-1] // 2, cos.shape[-1]
    ones = torch.cat([(cos - sin)[..., :half], (cos + sin)[..., half:]], -1)
    text, visual = ones[:, view.arrangement.stop :], view.arrangement.visual(ones)
    scaled: Tensor = text @ visual.transpose(1, 2) / width**0.5
    return scaled
