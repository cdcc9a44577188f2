"""What a method sees at a stage: read-only, in the coordinates of the current sequence."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .arrangement import Arrangement
from .plan import Site, Tower
from .request import Request, Segment, VisualSpan

if TYPE_CHECKING:
    from torch import Tensor, device


@dataclass
class Notes:
    """What one request carries from stage to stage, and what was solved on the warm-up.

    tags: values on the current visual tokens, moved with them by the engine, each with the value
    of a newline. remembered: tensors that a method wants back at a later stage. solved: numbers
    found on the first request of a series and fixed from then on. drawn: random numbers by device,
    seed and shape, where drawing anew is not possible.
    """

    solved: dict[str, float] = field(default_factory=dict)
    tags: dict[str, Tag] = field(default_factory=dict)
    remembered: dict[str, Tensor] = field(default_factory=dict)
    drawn: dict[tuple[object, ...], Tensor] | None = None

    def move(self, where: device) -> None:
        """Take the tensors along to another device."""
        self.tags = {
            name: Tag(tag.values.to(where), tag.newline) for name, tag in self.tags.items()
        }
        self.remembered = {name: kept.to(where) for name, kept in self.remembered.items()}


@dataclass(frozen=True)
class Tag:
    """Values [N, n] or [N, n, d] on visual tokens, of any dtype, and what a newline has."""

    values: Tensor
    newline: float = 0.0


@dataclass(frozen=True)
class View:
    """The tokens at a stage.

    N is the batch, and in the tower the number of all its tiles; n the visual tokens of each.

    site: where. hidden: [N, S, d], all tokens: what the decoder layer receives (entering) or gave
    (leaving), the embedded prompt (projected), or the tower's tokens, the class token before them
    where there is one. arrangement: where the visual ones stand among them. original: int64
    [N, n], where each came from (in the tower: from which patch of its tile), -1 for a merged one.
    sizes: float32 [N, n], how many tokens each stands for; None while each stands for itself.
    rotary: cosine and sine [N or 1, S, head_dim] of the sequence in the decoder, else None.
    norm: the norm behind the last decoder layer, on hidden states of its width.
    published: whether the released code's way is asked for.
    """

    site: Site
    request: Request
    hidden: Tensor
    arrangement: Arrangement
    original: Tensor
    notes: Notes
    norm: Callable[[Tensor], Tensor]
    sizes: Tensor | None = None
    rotary: tuple[Tensor, Tensor] | None = None
    rows_read: Tensor | None = None
    keys_read: Tensor | None = None
    published: bool = False

    @property
    def layer(self) -> int:
        """The layer of the site; -1 before the decoder."""
        return getattr(self.site, "layer", -1)

    @property
    def count(self) -> int:
        """n, the visual tokens of each sample (each tile in the tower)."""
        return self.arrangement.count

    @property
    def states(self) -> Tensor:
        """Hidden states of the visual tokens [N, n, d]."""
        return self.arrangement.visual(self.hidden)

    @property
    def text(self) -> Tensor:
        """Hidden states of the tokens behind the last picture [B, T, d]; none in the tower."""
        return self.hidden[:, self.arrangement.stop :]

    @property
    def last(self) -> Tensor:
        """Hidden state of the last token [B, 1, d]."""
        return self.hidden[:, -1:]

    @property
    def cls(self) -> Tensor:
        """Hidden state of the tower's class token [tiles, 1, d]; [tiles, 0, d] without one."""
        return self.hidden[:, : self.arrangement.start]

    @property
    def rows(self) -> Tensor:
        """The attention rows that the stage asked for, float32 [N, rows, n], over the visual
        tokens; [N, H, rows, n] where each head was asked for. With softmax, over all keys."""
        if self.rows_read is None:
            raise RuntimeError(
                f"the plan asked for no attention rows at {self.site}: Stage(..., reads=Rows(...))"
            )
        return self.rows_read

    @property
    def keys(self) -> Tensor:
        """The keys that the stage asked for, of the visual tokens [N, heads of keys, n, hd]."""
        return self.arrangement.visual(self._keys, 2)

    @property
    def text_keys(self) -> Tensor:
        """The keys of the tokens behind the last picture [B, heads of keys, T, hd]."""
        return self._keys[:, :, self.arrangement.stop :]

    @property
    def _keys(self) -> Tensor:
        if self.keys_read is None:
            raise RuntimeError(
                f"the plan asked for no keys at {self.site}: Stage(..., reads=Keys())"
            )
        return self.keys_read

    @property
    def segment(self) -> Tensor:
        """int64 [N, n]: which of the request's segments each visual token is in, -1 if merged. In
        the tower every tile is a segment of its own, and this is 0."""
        return self._placed(0)

    @property
    def row(self) -> Tensor:
        """int64 [N, n]: the row in its segment of each visual token, -1 if merged."""
        return self._placed(1)

    @property
    def column(self) -> Tensor:
        """int64 [N, n]: the column in its segment of each visual token, -1 if merged."""
        return self._placed(2)

    @property
    def newline(self) -> Tensor:
        """bool [N, n]: the newlines that end the rows of a picture under `anyres`."""
        return self._placed(3) == 1

    @property
    def span(self) -> Tensor:
        """int64 [N, n]: in which of the request's spans each visual token is: in which picture, or
        in which frame where text stands between frames; -1 if merged."""
        return self._placed(4)

    @property
    def frame(self) -> Tensor:
        """int64 [N, n]: the frame of the video that each visual token is of, -1 if of none, or if
        merged."""
        return self._placed(5)

    def tag(self, name: str) -> Tensor:
        """Values [N, n] or [N, n, d] that an earlier stage has put on the visual tokens."""
        if name not in self.notes.tags:
            known = ", ".join(self.notes.tags) or "none"
            raise RuntimeError(f"no stage has put a tag {name!r} on the tokens; known: {known}")
        values = self.notes.tags[name].values
        if values.shape[1] != self.count and not isinstance(self.site, Tower):
            raise RuntimeError(
                f"the tag {name!r} is of {values.shape[1]} patches, which this model joins to "
                f"{self.count} visual tokens: put units(values, view.request) on them"
            )
        return values

    def has_tag(self, name: str) -> bool:
        """Whether an earlier stage has put such a tag on the visual tokens."""
        return name in self.notes.tags

    def set_tag(self, name: str, values: Tensor, *, newline: float = 0.0) -> None:
        """Put values [N, n] or [N, n, d] of any dtype on the visual tokens, for later stages: they
        move with them. In a tower whose model joins patches to units, n may be their number; where
        it interpolates patches to visual tokens, so it does tags, which must be floating-point.
        newline: what the newlines get that come between them before the decoder."""
        self.notes.tags[name] = Tag(values, newline)

    def recall(self, name: str) -> Tensor:
        """What an earlier stage has remembered under this name."""
        if name not in self.notes.remembered:
            known = ", ".join(self.notes.remembered) or "nothing"
            raise RuntimeError(f"no stage has remembered {name!r}; known: {known}")
        return self.notes.remembered[name]

    def remember(self, name: str, tensor: Tensor) -> None:
        """Keep a tensor that belongs to no token for later stages of the request."""
        self.notes.remembered[name] = tensor

    def solved(self, name: str, compute: Callable[[], float], *, layer: int | None = None) -> float:
        """`name` as solved on the first request, computed now if this is it.

        It belongs to the stage's layer, or to `layer` where several stages share it.
        """
        key = f"layer {self.layer if layer is None else layer} {name}"
        if key not in self.notes.solved:
            value = compute()
            if not math.isfinite(value):
                raise ValueError(f"{key} came out as {value}: the attention scores are not finite")
            self.notes.solved[key] = float(value)
        return self.notes.solved[key]

    def random(self, *shape: int, seed: int = 0) -> Tensor:
        """Uniform numbers in [0, 1), float32, on the device of the request, fixed by `seed`."""
        import torch

        device, drawn = self.hidden.device, self.notes.drawn
        key = (device, seed, shape)
        if drawn is not None and key in drawn:
            return drawn[key].clone()
        generator = torch.Generator(device=device).manual_seed(seed)
        numbers = torch.rand(shape, generator=generator, device=device)
        if drawn is not None:
            drawn[key] = numbers.clone()
        return numbers

    def _placed(self, which: int) -> Tensor:
        """A column of the grid at the origins of the tokens."""
        spans = self.request.spans
        if isinstance(self.site, Tower):
            spans = (VisualSpan(0, _tile(self.request)),)
        grid = _grid(spans, self.hidden.device)[which]
        found: Tensor = grid[self.original.clamp_min(0)]
        return found.masked_fill(self.original < 0, -1)


def _tile(request: Request) -> tuple[Segment, ...]:
    """The grid of a tile's patches; those of a model that joins patches are not in raster order."""
    encoder = request.encoder
    ordered = encoder is not None and (request.merger == 1 or encoder.square)
    if encoder is None or encoder.side**2 != encoder.patches or not ordered:
        raise RuntimeError("the patches of this vision tower stand on no square grid")
    return (Segment(encoder.side, encoder.side),)


@functools.lru_cache(maxsize=32)
def _grid(spans: tuple[VisualSpan, ...], where: device) -> Tensor:
    """int64 [6, V]: segment, row, column of each visual token, 1 for a newline, span and frame."""
    import torch

    places, segments, frames = [], itertools.count(), itertools.count()
    for span_number, span in enumerate(spans):
        for segment in span.segments:
            number, frame = next(segments), next(frames) if segment.frame else -1
            for row, column in itertools.product(range(segment.height), range(segment.width)):
                newline = int(segment.newline and column == segment.width - 1)
                places.append((number, row, column, newline, span_number, frame))
    return torch.tensor(places, device=where).T.contiguous()
