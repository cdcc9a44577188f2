"""Where the visual tokens stand in a sequence, of one picture or of several with text between."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .request import Request, VisualSpan

if TYPE_CHECKING:
    from torch import Tensor, device


@dataclass(frozen=True)
class Spread:
    """Where the tokens of several spans stand, each int64, in their order in the sequence.

    places: [B, n], of the visual tokens. texts: [B, T], of the others. spans: [B, n], the span that
    each visual token is in.
    """

    places: Tensor
    texts: Tensor
    spans: Tensor

    def to(self, where: device) -> Spread:
        """The same on another device."""
        return Spread(self.places.to(where), self.texts.to(where), self.spans.to(where))

    @functools.cached_property
    def order(self) -> Tensor:
        """int64 [B, S]: which of the texts, and behind them the visual tokens, stands where."""
        import torch

        return torch.cat([self.texts, self.places], 1).argsort(1)


@dataclass(frozen=True)
class Arrangement:
    """Where the visual tokens stand in a sequence of B samples: at start:stop if they are in one
    span; else start is where the first begins, stop where the last ends, and `spread` tells."""

    start: int
    stop: int
    spread: Spread | None = None
    parted: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """n, the visual tokens of each sample."""
        return self.stop - self.start if self.spread is None else self.spread.places.shape[1]

    @property
    def columns(self) -> slice | Tensor:
        """The visual tokens among the keys of the sequence."""
        if self.spread is None:
            return slice(self.start, self.stop)
        return self.spread.places

    def to(self, where: device) -> Arrangement:
        """The same on another device."""
        spread = None if self.spread is None else self.spread.to(where)
        return replace(self, spread=spread)

    def visual(self, values: Tensor, dim: int = 1) -> Tensor:
        """The visual tokens of values [B, ..., S, ...] that lie along `dim`."""
        if self.spread is None:
            return values.narrow(dim, self.start, self.stop - self.start)
        return gathered(values, self.spread.places, dim)

    def joined(self, values: Tensor, visual: Tensor, after: Arrangement, dim: int = 1) -> Tensor:
        """Values with `visual` [B, ..., m, ...] in the place of the visual tokens, in the order of
        the arrangement `after`."""
        import torch

        if self.spread is None or after.spread is None:
            behind = values.shape[dim] - self.stop
            parts = [values.narrow(dim, 0, self.start), visual]
            return torch.cat([*parts, values.narrow(dim, self.stop, behind)], dim)
        return after.woven(gathered(values, self.spread.texts, dim), visual, dim)

    def woven(self, texts: Tensor, visual: Tensor, dim: int = 1) -> Tensor:
        """Text and visual tokens of several spans in the order of the sequence."""
        import torch

        assert self.spread is not None
        return gathered(torch.cat([texts, visual], dim), self.spread.order, dim)

    def added(self, values: Tensor, visual: Tensor) -> Tensor:
        """Values [B, S, d] with `visual` [B, n, d] added to the visual tokens, in place."""
        visual = visual.to(values.dtype)
        if self.spread is None:
            values.narrow(1, self.start, self.count).add_(visual)
            return values
        return values.scatter_add_(1, self.spread.places[..., None].expand_as(visual), visual)

    def kept(self, index: Tensor) -> Arrangement:
        """The arrangement when the visual tokens `index` [B, m] are left, in that order within each
        span."""
        import torch

        count = index.shape[1]
        if self.spread is None:
            return Arrangement(self.start, self.start + count)
        texts, spans = self.spread.texts, self.spread.spans.gather(1, index)
        behind = _text_spans(self.parted, texts.device).expand_as(texts)
        # Text stands before the visual tokens of its span, the tail behind them all.
        order = torch.cat([2 * behind, 2 * spans + 1], 1).argsort(dim=1, stable=True)
        places = order.argsort(1)
        length = texts.shape[1] + count
        spread = Spread(places[:, texts.shape[1] :], places[:, : texts.shape[1]], spans)
        return Arrangement(self.start, length - self.parted[-1], spread, self.parted)


def arranged(request: Request, batch: int, where: device) -> Arrangement:
    """The arrangement of a whole prompt."""
    stop = request.length - request.after
    if len(request.spans) == 1:
        return Arrangement(request.before, stop)
    places, texts, spans = (
        part.expand(batch, -1) for part in _spread(request.spans, request.after, where)
    )
    parted = (*(span.before for span in request.spans), request.after)
    return Arrangement(request.before, stop, Spread(places, texts, spans), parted)


def gathered(values: Tensor, places: Tensor, dim: int) -> Tensor:
    """Values [B, ..., S, ...] at places [B, n] along `dim`, with the batch of the places."""
    shape = [1] * values.dim()
    shape[0], shape[dim] = places.shape
    wanted = [*values.shape]
    wanted[0], wanted[dim] = places.shape
    if values.shape[0] != places.shape[0]:
        values = values.expand(places.shape[0], *values.shape[1:])
    return values.gather(dim, places.view(shape).expand(wanted))


@functools.lru_cache(maxsize=32)
def _text_spans(parted: tuple[int, ...], where: device) -> Tensor:
    """int64 [1, T]: before which span each text token stands, and behind the last one."""
    import torch

    counts = torch.tensor(parted)
    return torch.arange(len(parted)).repeat_interleave(counts)[None].to(where)


@functools.lru_cache(maxsize=32)
def _spread(
    spans: tuple[VisualSpan, ...], after: int, where: device
) -> tuple[Tensor, Tensor, Tensor]:
    """Places [1, V] and [1, T] of visual and text tokens of a whole prompt, and the spans [1, V] of
    the visual ones."""
    import torch

    places: list[int] = []
    texts: list[int] = []
    numbers: list[int] = []
    length = 0
    for number, span in enumerate(spans):
        texts += range(length, length + span.before)
        length += span.before
        places += range(length, length + span.tokens)
        numbers += [number] * span.tokens
        length += span.tokens
    texts += range(length, length + after)
    of_visual, of_text, of_spans = (
        torch.tensor([part], dtype=torch.int64, device=where) for part in (places, texts, numbers)
    )
    return of_visual, of_text, of_spans
