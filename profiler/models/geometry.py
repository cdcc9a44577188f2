"""The visual tokens that a picture becomes, from the shape of a model alone. No torch here."""

from __future__ import annotations

from ...methods.contract.request import Encoder, Request, Segment
from ...reports.record.spec import Layout
from .shapes import Shape, dynamic_size, tile_grid


def segments(shape: Shape, size: tuple[int, int], layout: Layout) -> tuple[Segment, ...]:
    """The rectangles of visual tokens for a picture of `size` (height, width) in pixels."""
    vision = shape.vision
    if shape.architecture == "qwen2-vl":
        rows, columns = dynamic_size(shape, *size)
        unit = vision.patch * vision.merge
        return (Segment(rows // unit, columns // unit),)
    tile = Segment(vision.side, vision.side)
    if shape.architecture == "llava":
        return (tile,)
    rows, columns = tile_grid(shape, *size)
    if layout == "flat":
        return (tile,) * (1 + rows * columns)
    height, width = _unpadded(rows * vision.side, columns * vision.side, size)
    return (tile, Segment(height, width + 1, newline=True))


def _unpadded(rows: int, columns: int, size: tuple[int, int]) -> tuple[int, int]:
    """A grid of patches without the rows or columns that only cover padding."""
    height, width = size
    if width / height > columns / rows:
        padding = (rows - int(round(height * columns / width, 7))) // 2
        return rows - 2 * padding, columns
    padding = (columns - int(round(width * rows / height, 7))) // 2
    return rows, columns - 2 * padding


def rectangle(visual: int) -> tuple[Segment, ...]:
    """The most nearly square rectangle of exactly `visual` tokens, for synthetic features."""
    height = next(side for side in range(int(visual**0.5), 0, -1) if visual % side == 0)
    return (Segment(height, visual // height),)


def encoder(shape: Shape, size: tuple[int, int], layout: Layout) -> Encoder:
    """The vision tower at work on a picture of `size` (height, width) in pixels."""
    vision = shape.vision
    if shape.architecture == "qwen2-vl":
        rows, columns = dynamic_size(shape, *size)
        patches = (rows // vision.patch) * (columns // vision.patch)
        return Encoder(
            tiles=1,
            patches=patches,
            layers=vision.layers,
            width=vision.hidden,
            has_cls=False,
            mergeable=False,
            heads=vision.heads,
        )
    crops = tile_grid(shape, *size) if shape.architecture == "llava-next" else (0, 0)
    flat = shape.architecture == "llava" or layout == "flat"
    return Encoder(
        tiles=1 + crops[0] * crops[1],
        patches=vision.side**2,
        layers=vision.layers,
        width=vision.hidden,
        mergeable=flat,
        last_layer=vision.first_feature,
        heads=vision.heads,
        crops=crops,
    )


def request(
    shape: Shape,
    *,
    before: int,
    after: int,
    size: tuple[int, int],
    layout: Layout = "flat",
    visual_tokens: int | None = None,
    batch: int = 1,
    new_tokens: int = 2,
) -> Request:
    """The lengths of a request; `visual_tokens` synthetic features skip the vision tower."""
    synthetic = visual_tokens is not None
    return Request(
        layers=shape.text.layers,
        hidden=shape.text.hidden,
        before=before,
        after=after,
        segments=rectangle(visual_tokens) if visual_tokens else segments(shape, size, layout),
        encoder=None if synthetic else encoder(shape, size, layout),
        merger=shape.vision.merge**2,
        batch=batch,
        new_tokens=new_tokens,
        heads=shape.text.heads,
        kv_heads=shape.text.kv_heads,
        head_dim=shape.text.head_dim,
        compactable=shape.architecture != "qwen2-vl",
    )


def positions(shape: Shape, request: Request) -> int:
    """How many positions a request takes, its last new token's included. A picture of Qwen2-VL
    takes as many as the longer side of its grid (M-RoPE)."""
    taken = request.visual
    if shape.architecture == "qwen2-vl" and request.encoder is not None:
        taken = max(max(segment.height, segment.width) for segment in request.segments)
    return request.before + taken + request.after + request.new_tokens - 1
