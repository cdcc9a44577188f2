"""The lengths of a request, from the shape of a model alone. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...methods.contract.request import Encoder, Request, Segment, Size, VisualSpan
from ...reports.record.spec import Layout
from .shapes import Shape, ShapeError


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
    more: Sequence[Size] = (),
    between: Sequence[int] | None = None,
    frames: int = 0,
    layout: Layout = "flat",
    visual_tokens: int | None = None,
    batch: int = 1,
    new_tokens: int = 2,
) -> Request:
    """The lengths of a request.

    size: of the picture, height and width in pixels; more: of those that follow it. between: text
    tokens before each of these, or before each frame but the first where text parts them; None for
    as many as the architecture's template puts there. frames: of a video in the place of pictures,
    each of `size`. visual_tokens: synthetic features, which skip the vision tower.
    """
    if visual_tokens is not None:
        spans: Sequence[VisualSpan] = (VisualSpan(0, rectangle(visual_tokens)),)
        tower = None
    elif frames:
        spans, tower = _video(shape, frames, size, between)
    else:
        spans, tower = _pictures(shape, (size, *more), between, layout)
    segments, breaks = _joined(spans)
    made = Request(
        layers=shape.text.layers,
        hidden=shape.text.hidden,
        before=before,
        after=after,
        segments=segments,
        encoder=tower,
        merger=shape.vision.merge**2,
        batch=batch,
        new_tokens=new_tokens,
        heads=shape.text.heads,
        kv_heads=shape.text.kv_heads,
        head_dim=shape.text.head_dim,
        compactable=shape.architecture.compactable,
        breaks=breaks,
    )
    _require_positions(shape, made)
    return made


def _require_positions(shape: Shape, request: Request) -> None:
    """Raises ShapeError for a request that is longer than a model which then changes."""
    taken, most = positions(shape, request), shape.text.positions
    if shape.architecture.bounded and taken > most:
        raise ShapeError(
            f"a request of {taken:,} positions: {shape.name} is made for {most:,}, and beyond them "
            "its rotary embedding would change with each request (dynamic scaling)"
        )


def positions(shape: Shape, request: Request) -> int:
    """How many positions a request takes, its last new token's included."""
    if request.encoder is None:
        return request.length + request.new_tokens - 1
    place = highest = 0
    for span in request.spans:
        place += span.before
        highest = max(highest, place + shape.architecture.reach(shape, span.segments))
        place += shape.architecture.positions(span.segments)
    return max(highest, place + request.after) + request.new_tokens - 1


def _video(
    shape: Shape, frames: int, size: Size, between: Sequence[int] | None
) -> tuple[Sequence[VisualSpan], Encoder]:
    """The spans of a video, and the tower at work on it; see `request`."""
    spans = shape.architecture.video(shape, frames, size)
    if between:
        parted = zip(spans, [0, *between], strict=True)
        spans = tuple(replace(span, before=text) for span, text in parted)
    return spans, shape.architecture.video_encoder(shape, frames, size)


def _pictures(
    shape: Shape, sizes: Sequence[Size], between: Sequence[int] | None, layout: Layout
) -> tuple[Sequence[VisualSpan], Encoder]:
    """The spans of pictures, and the tower at work on them; see `request`."""
    architecture, several = shape.architecture, len(sizes) > 1
    texts = [architecture.between] * (len(sizes) - 1) if between is None else between
    spans = [
        VisualSpan(text, architecture.segments(shape, size, layout, several=several))
        for text, size in zip([0, *texts], sizes, strict=True)
    ]
    towers = [architecture.encoder(shape, size, layout, several=several) for size in sizes]
    grids = [span.segments for span in spans]
    return spans, side_by_side(towers, grids) if several else towers[0]


def _joined(
    spans: Sequence[VisualSpan],
) -> tuple[tuple[Segment, ...], tuple[tuple[int, int], ...]]:
    """Segments and breaks of a request from its spans; see Request."""
    segments, breaks = list(spans[0].segments), []
    for span in spans[1:]:
        breaks.append((len(segments), span.before))
        segments += span.segments
    return tuple(segments), tuple(breaks)


def side_by_side(towers: Sequence[Encoder], grids: Sequence[tuple[Segment, ...]]) -> Encoder:
    """The vision tower at work on several pictures: as many tiles, or where these are unlike, one
    of several sequences. Nothing is merged there. grids: the segments of each picture, which a
    windowed tower orders its patches by."""
    first = replace(towers[0], crops=(0, 0))
    if first.mergeable:
        first = replace(first, mergeable=False, held_by="the prompt holds several pictures")
    alike = {
        (tower.patches, tower.windows, grid if tower.windows else ())
        for tower, grid in zip(towers, grids, strict=True)
    }
    if len(alike) == 1:
        return replace(first, tiles=sum(tower.tiles for tower in towers))
    apart = [tower for tower in towers for _ in range(tower.tiles)]
    sequences = tuple(length for one in apart for length in one.sequences or (one.patches,))
    return replace(
        first,
        tiles=1,
        patches=sum(tower.patches for tower in apart),
        sequences=sequences,
        windows=tuple(length for tower in apart for length in tower.windows),
    )
