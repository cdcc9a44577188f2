"""The lengths of a request, from the shape of a model alone. No torch here."""

from __future__ import annotations

from ...methods.contract.request import Request, Segment, Size
from ...reports.record.spec import Layout
from .shapes import Shape


def rectangle(visual: int) -> tuple[Segment, ...]:
    """The most nearly square rectangle of exactly `visual` tokens, for synthetic features."""
    height = next(side for side in range(int(visual**0.5), 0, -1) if visual % side == 0)
    return (Segment(height, visual // height),)


def request(
    shape: Shape,
    *,
    before: int,
    after: int,
    size: Size,
    layout: Layout = "flat",
    visual_tokens: int | None = None,
    batch: int = 1,
    new_tokens: int = 2,
) -> Request:
    """The lengths of a request; `visual_tokens` synthetic features skip the vision tower."""
    synthetic, architecture = visual_tokens is not None, shape.architecture
    pictured = rectangle(visual_tokens) if visual_tokens else ()
    return Request(
        layers=shape.text.layers,
        hidden=shape.text.hidden,
        before=before,
        after=after,
        segments=pictured or architecture.segments(shape, size, layout),
        encoder=None if synthetic else architecture.encoder(shape, size, layout),
        merger=shape.vision.merge**2,
        batch=batch,
        new_tokens=new_tokens,
        heads=shape.text.heads,
        kv_heads=shape.text.kv_heads,
        head_dim=shape.text.head_dim,
        compactable=architecture.compactable,
    )


def positions(shape: Shape, request: Request) -> int:
    """How many positions a request takes, its last new token's included."""
    taken = request.visual
    if request.encoder is not None:
        taken = shape.architecture.positions(request.segments)
    return request.before + taken + request.after + request.new_tokens - 1
