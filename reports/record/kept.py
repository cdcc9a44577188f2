"""Which visual tokens a method keeps, and where they lie in the picture."""

from __future__ import annotations

import base64
from typing import Annotated

import msgspec

from .base import Count, Positive, Struct, about


class Kept(Struct):
    """The visual tokens that enter one decoder layer and those up to the next entry, of the first
    request of the batch."""

    layer: Annotated[Count, about("First decoder layer that they enter.")]
    visual: Annotated[Positive, about("Visual tokens before any was pruned.")]
    tokens: Annotated[
        list[Count],
        about(
            "Those that stay, as indices into the original ones, in their order in the sequence."
        ),
    ]
    merged: Annotated[
        Count, about("How many more stand for several, and have no place of their own.")
    ] = 0
    scores: Annotated[
        list[float | None],
        about(
            "Mean attention that the method read to choose them, by original token, null where it "
            "had gone; empty where the method read none, or none was kept."
        ),
    ] = []


FARTHEST = 10**6
"""Sides of a picture that padding may reach to: of one as thin as a line of 65,536 pixels."""
Side = Annotated[float, msgspec.Meta(ge=-FARTHEST, le=FARTHEST)]


class Region(Struct):
    """Visual tokens that cover a rectangle of the picture, in raster order. Its sides are shares of
    the picture's, from 0 to 1; beyond lies padding."""

    view: Annotated[str, about("View of the picture; regions of one view do not overlap.")]
    first: Annotated[Count, about("Index of its first visual token.")]
    rows: Annotated[Positive, about("Rows of tokens.")]
    columns: Annotated[Positive, about("Tokens in a row.")]
    stride: Annotated[Positive, about("Tokens from the start of a row to that of the next.")]
    left: Annotated[Side, about("Left side.")] = 0.0
    top: Annotated[Side, about("Upper side.")] = 0.0
    right: Annotated[Side, about("Right side.")] = 1.0
    bottom: Annotated[Side, about("Lower side.")] = 1.0


class Picture(Struct):
    """A small copy of the picture, and what its visual tokens cover."""

    jpeg: Annotated[str, about("A JPEG file, in base64.")]
    regions: Annotated[list[Region], about("Which tokens lie where.")]


def fitting(kept: Kept) -> bool:
    """Whether its tokens are among the original ones, and its scores one for each of them."""
    inside = all(token < kept.visual for token in kept.tokens)
    return inside and len(kept.tokens) <= kept.visual and len(kept.scores) in (0, kept.visual)


def drawable(picture: Picture) -> bool:
    """Whether it is a JPEG file in base64, and the rows of its regions do not run into another."""
    try:
        content = base64.b64decode(picture.jpeg, validate=True)
    except ValueError:
        return False
    return content.startswith(b"\xff\xd8") and all(
        region.columns <= region.stride for region in picture.regions
    )


def pruned(kept: list[Kept]) -> list[Kept]:
    """The entries at which tokens have gone."""
    return [entry for entry in kept if len(entry.tokens) < entry.visual]
