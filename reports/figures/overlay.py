"""Kept tokens drawn over the picture: what stays is clear, what goes lies under a veil."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

from ..record.base import RecordError
from ..record.kept import Kept, Picture, Region

if TYPE_CHECKING:
    from PIL import Image

VEIL = (236, 239, 242)
THICKNESS = 0.86  # of the veil


def open_picture(picture: Picture) -> Image.Image:
    """The small copy of the picture, RGB; raises RecordError where it cannot be read."""
    from PIL import Image

    try:
        return Image.open(io.BytesIO(base64.b64decode(picture.jpeg))).convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:  # PIL's, for files that are damaged
        raise RecordError(
            f"the record's picture cannot be read ({type(error).__name__})"
        ) from error


def views(picture: Picture) -> list[str]:
    """The views in which tokens cover the picture: whole, or tile by tile."""
    return list(dict.fromkeys(region.view for region in picture.regions))


def overlay(picture: Picture, view: str, kept: Kept) -> Image.Image:
    """The picture as one view of it is kept."""
    from PIL import Image, ImageDraw

    base = open_picture(picture)
    mask = Image.new("L", base.size, 255)
    draw = ImageDraw.Draw(mask)
    regions = [region for region in picture.regions if region.view == view]
    for token in kept.tokens:
        for region in regions:
            box = _box(region, token, base.size)
            if box is not None:
                draw.rectangle(box, fill=0)
    veiled = Image.blend(base, Image.new("RGB", base.size, VEIL), THICKNESS)
    return Image.composite(veiled, base, mask)


def jpeg(image: Image.Image, longest: int) -> str:
    """The image, no side longer than so many pixels, as base64 of a JPEG file."""
    buffer = io.BytesIO()
    image.thumbnail((longest, longest))
    image.save(buffer, "JPEG", quality=75)
    return base64.b64encode(buffer.getvalue()).decode()


def _box(region: Region, token: int, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """Pixels that a token covers, borders included; None if it lies in another region, outside
    the picture or at the end of a row."""
    row, column = divmod(token - region.first, region.stride)
    if not 0 <= row < region.rows or column >= region.columns:
        return None
    width, height = size
    across, down = region.right - region.left, region.bottom - region.top
    left = (region.left + across * column / region.columns) * width
    right = (region.left + across * (column + 1) / region.columns) * width
    top = (region.top + down * row / region.rows) * height
    bottom = (region.top + down * (row + 1) / region.rows) * height
    box = (round(left), round(top), round(right) - 1, round(bottom) - 1)
    return box if box[2] >= max(box[0], 0) and box[3] >= max(box[1], 0) else None
