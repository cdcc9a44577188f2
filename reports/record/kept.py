"""Which visual tokens a method keeps, and where they lie in the picture."""

from __future__ import annotations

import base64

from .base import Struct


class Kept(Struct):
    """The visual tokens that enter decoder layer `layer` and those up to the next entry.

    tokens: indices into the `visual` original ones, in their order in the sequence, of the first
    request of the batch. merged: how many more stand for several and have no place. scores: mean
    attention that the method read to choose them, by original token, None where it had gone; empty
    where it read none, or none was kept.
    """

    layer: int
    visual: int
    tokens: list[int]
    merged: int = 0
    scores: list[float | None] = []


class Region(Struct):
    """Visual tokens from `first` on that cover a rectangle of the picture in raster order: `rows`
    of `columns`, each row `stride` tokens after the one before. left, top, right, bottom: of the
    picture, 0 to 1; beyond it lies padding. view: regions of one view do not overlap."""

    view: str
    first: int
    rows: int
    columns: int
    stride: int
    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0


class Picture(Struct):
    """A small copy of the picture, as base64 of a JPEG file, and what its visual tokens cover."""

    jpeg: str
    regions: list[Region]


def fitting(kept: Kept) -> bool:
    """Whether its tokens are among the original ones, and its scores one for each of them."""
    inside = kept.visual > 0 and all(0 <= token < kept.visual for token in kept.tokens)
    return inside and len(kept.tokens) <= kept.visual and len(kept.scores) in (0, kept.visual)


def drawable(picture: Picture) -> bool:
    """Whether it is a JPEG file in base64, and its regions have rows and columns."""
    try:
        content = base64.b64decode(picture.jpeg, validate=True)
    except ValueError:
        return False
    return content.startswith(b"\xff\xd8") and all(
        0 < region.columns <= region.stride and region.rows > 0 and region.first >= 0
        for region in picture.regions
    )


def pruned(kept: list[Kept]) -> list[Kept]:
    """The entries at which tokens have gone."""
    return [entry for entry in kept if len(entry.tokens) < entry.visual]
