"""The few selections that many methods share. No torch before one is called."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..contract.method import Keep
from ..contract.request import Request, Segment

if TYPE_CHECKING:
    from torch import Tensor


def top(scores: Tensor, count: int) -> Keep:
    """Keep the `count` highest of scores [N, n], in their order in the sequence."""
    return Keep(scores.topk(count, -1).indices.sort(-1).values)


def flag_top(scores: Tensor, count: int) -> Tensor:
    """Flags bool [N, n] on the `count` highest of scores [N, n]."""
    import torch

    none = torch.zeros_like(scores, dtype=torch.bool)
    return none.scatter(-1, scores.topk(count, -1).indices, True)


def top_in_parts(scores: Tensor, sizes: list[int], counts: list[int]) -> Keep:
    """Of scores [N, n] that lie in parts of `sizes` one behind another, keep the highest of each
    part, as many as `counts` says, in their order in the sequence."""
    import torch

    ends = list(itertools.accumulate(sizes))
    chosen = [
        scores[:, end - size : end].topk(count, -1).indices + (end - size)
        for end, size, count in zip(ends, sizes, counts, strict=True)
        if count
    ]
    return Keep(torch.cat(chosen, -1).sort(-1).values)


def group_rank(scores: Tensor, group: Tensor, groups: int) -> Tensor:
    """The rank int64 [N, n] of each score among those of its group, 0 for the highest; group:
    int64 [N, n], below `groups`."""
    falling, _, turn = _by_turns(scores, group, groups)
    return falling.scatter(1, falling, turn - 1)  # back to where they stand


def top_in_groups(scores: Tensor, group: Tensor, quota: Tensor, count: int) -> Keep:
    """Of scores [N, n] whose tokens are in `group` int64 [N, n] of G, keep the highest of each, as
    many as `quota` [N, G] says; where a group has fewer, the highest of all others make up `count`.
    The order is that of the sequence."""
    falling, group, turn = _by_turns(scores, group, quota.shape[1])
    within = turn <= quota.gather(1, group)
    chosen = within.argsort(dim=-1, descending=True, stable=True)[:, :count]
    return Keep(falling.gather(1, chosen).sort(-1).values)


def _by_turns(scores: Tensor, group: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """Places by falling score, the group of each, and which of its group it is, from 1 on; int64
    [N, n], the groups below `groups`."""
    import torch

    falling = scores.argsort(dim=-1, descending=True, stable=True)
    group = group.gather(1, falling)
    member = group[:, None] == torch.arange(groups, device=group.device)[:, None]
    return falling, group, member.cumsum(-1).gather(1, group[:, None])[:, 0]


def top_in_rows(scores: Tensor, quota: Tensor, count: int) -> Tensor:
    """As `top_in_groups`, of scores [N, F, T] whose groups are rows: the places int64 [N, count]
    among all of F * T."""
    rank = scores.argsort(dim=-1, descending=True, stable=True).argsort(-1)
    place = scores.flatten(1).argsort(dim=-1, descending=True, stable=True).argsort(-1)
    within = (rank < quota[..., None]).flatten(1)
    first = place.add(within, alpha=-place.shape[1])
    return first.topk(count, -1, largest=False).indices.sort(-1).values


def round_shares(shares: Tensor, total: int, ranked: Tensor | None = None) -> Tensor:
    """Shares [N, G] that add up to about `total`, as whole numbers that do: rounded down, and one
    more where `ranked` [N, G] is highest; by largest remainder, if it is None."""
    whole = shares.floor()
    behind = shares - whole if ranked is None else ranked
    rank = behind.argsort(dim=-1, descending=True, stable=True).argsort(-1)
    return whole + (rank < total - whole.sum(-1, keepdim=True))


def in_parts(
    segments: Sequence[Segment],
    counts: Sequence[int],
    decide: Callable[..., Keep],
    *values: Tensor,
) -> Keep:
    """Decide part by part on tokens that lie in `segments` one behind another.

    values: [N, n, ...], on the tokens. decide: from a segment, its count, and the values of equal
    neighbours [N * alike, size, ...], to what is kept of each. Segments without a count lose all.
    """
    import torch

    index, features, merged, sizes = [], [], [], []
    batch = values[0].shape[0]
    for segment, part in _grouped(segments, counts, key=lambda segment: segment):
        keep = decide(segment, part.share, *map(part.rows, values))
        index.append(part.places(keep.index))
        if keep.features is not None:
            features.append(keep.features.reshape(batch, -1, keep.features.shape[-1]))
        if keep.merged is not None:
            merged.append(keep.merged.expand_as(keep.index).reshape(batch, -1))
        if keep.sizes is not None:
            sizes.append(keep.sizes.reshape(batch, -1))
    return Keep(
        torch.cat(index, 1),
        torch.cat(features, 1) if features else None,
        torch.cat(merged, 1) if merged else None,
        torch.cat(sizes, 1) if sizes else None,
    )


def greedy(worth: Tensor, count: int, after: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Choose `count` of n places one after another, the worthiest each time: int64 [N, count], in
    the order of choice. No step makes the host wait.

    worth: [N, n], what each place is worth for the first choice. after: what it is worth for the
    next one, given the number of the step and the place [N, 1] that it chose; what was chosen is
    out, whatever it says.
    """
    import torch

    if count < 1:
        return torch.zeros_like(worth[:, :0], dtype=torch.int64)
    chosen = []
    gone = torch.zeros_like(worth, dtype=torch.bool)
    for step in range(count):
        place = worth.masked_fill(gone, float("-inf")).argmax(-1, keepdim=True)
        chosen.append(place)
        if step < count - 1:
            gone = gone.scatter(1, place, True)
            worth = after(step, place)
    return torch.cat(chosen, 1)


def spread_out(distance: Tensor, count: int) -> Tensor:
    """Choose `count` places one after another, each the farthest from those chosen: int64
    [N, count], in the order of choice. distance: [N, n, n], of each chosen one (row) to the others;
    the first is the one whose nearest other is farthest."""
    import torch

    nearest = distance.topk(2, 1, largest=False).values[:, -1]  # the nearest is itself

    def after(step: int, place: Tensor) -> Tensor:
        nonlocal nearest
        row = take(distance, place)[:, 0]
        nearest = torch.minimum(nearest, row) if step else row
        return nearest

    return greedy(nearest, count, after)


def spread_out_in_rows(tokens: Tensor, worth: Tensor, count: int) -> Tensor:
    """As `spread_out`, `count` of each row of tokens [N, R, n, d]: the places int64 [N, R * count]
    among all of R * n. The distance to a token is one less the cosine, times its `worth`
    [N, R, n]."""
    import torch

    batch, rows, size = worth.shape
    if not count:
        return torch.zeros(batch, 0, dtype=torch.int64, device=worth.device)
    distance = (1 - cosines(tokens.flatten(0, 1))) * worth.flatten(0, 1)[:, None]
    first = torch.arange(0, rows * size, size, device=worth.device)
    chosen = spread_out(distance, count).view(batch, rows, count)
    return (chosen + first[:, None]).flatten(1)


def top_of_each(scores: Tensor, count: int, request: Request) -> Keep:
    """Keep the best by scores [N, V] of each picture of the prompt, together `count`, shared in
    proportion to their tokens. All of them are there."""
    import torch

    index, first = [], 0
    sizes = [span.tokens for span in request.spans]
    for size, share in zip(sizes, quotas(count, sizes), strict=True):
        index.append(top(scores[:, first : first + size], share).index + first)
        first += size
    return Keep(torch.cat(index, 1))


def quotas(budget: int, sizes: list[int]) -> list[int]:
    """`budget` shared among parts in proportion to their sizes, by largest remainder: none gets
    more than its size, and together they get `budget`."""
    total = sum(sizes)
    shares = [budget * size // total for size in sizes]
    remainders = [-(budget * size % total) for size in sizes]
    for index in sorted(range(len(sizes)), key=remainders.__getitem__)[: budget - sum(shares)]:
        shares[index] += 1
    return shares


class Part(NamedTuple):
    """Rectangles of a picture in a row that are alike, decided on together.

    start: their first visual token. alike: how many they are. size: tokens of each. share: how many
    of those stay.
    """

    start: int
    alike: int
    size: int
    share: int

    def rows(self, values: Tensor) -> Tensor:
        """Of values [N, n, ...] those inside, a row for each: [N * alike, size, ...]."""
        inside = values[:, self.start : self.start + self.alike * self.size]
        return inside.reshape(-1, self.size, *values.shape[2:])

    def places(self, chosen: Tensor) -> Tensor:
        """Places int64 [N, alike * share] among all visual tokens, of those chosen inside
        [N * alike, share]."""
        import torch

        if self.alike == 1:
            return chosen + self.start
        stop = self.start + self.alike * self.size
        first = torch.arange(self.start, stop, self.size, device=chosen.device)
        return (chosen.view(-1, self.alike, self.share) + first[:, None]).flatten(1)


def parts(request: Request, budget: int) -> list[Part]:
    """The rectangles of a picture with their shares of `budget`, as `quotas` says; those of which
    nothing stays are left out."""
    grouped = _grouped(request.grid, shares(request, budget), key=lambda segment: segment.tokens)
    return [part for _, part in grouped]


def shares(request: Request, budget: int) -> list[int]:
    """How many tokens of `budget` each rectangle of a picture keeps, as `quotas` says; newlines
    that stand alone keep what the others leave."""
    whole = [segment.tokens * bool(segment.patches) for segment in request.segments]
    alone = [segment.tokens for segment in request.segments if not segment.patches]
    first = min(budget, sum(whole))
    behind = iter(quotas(budget - first, alone))
    given = quotas(first, whole)
    return [share if size else next(behind) for share, size in zip(given, whole, strict=True)]


def _grouped(
    segments: Sequence[Segment], counts: Sequence[int], key: Callable[[Segment], Hashable]
) -> Iterator[tuple[Segment, Part]]:
    """Neighbours with the same key and count, as one part, and their first segment; those without a
    count are left out."""
    start = 0
    pairs = zip(segments, counts, strict=True)
    for (_, count), equal in itertools.groupby(pairs, key=lambda pair: (key(pair[0]), pair[1])):
        alike = [segment for segment, _ in equal]
        if count:
            yield alike[0], Part(start, len(alike), alike[0].tokens, count)
        start += len(alike) * alike[0].tokens


def units(values: Tensor, request: Request) -> Tensor:
    """Values [N, patches, ...] of a tower's patches as those of visual tokens [N, tokens, ...]:
    the mean over the patches that the model joins into one."""
    if request.merger == 1:
        return values
    tiles, _, *rest = values.shape
    square = request.tower.square
    if not square:  # they stand one behind another
        return values.view(tiles, -1, request.merger, *rest).mean(2)
    side = request.tower.side // square
    return values.view(tiles, side, square, side, square, *rest).mean((2, 4)).flatten(1, 2)


def min_max(scores: Tensor) -> Tensor:
    """scores [N, n] stretched to [0, 1] row by row; a constant row becomes zeros."""
    low, high = scores.amin(-1, keepdim=True), scores.amax(-1, keepdim=True)
    return (scores - low) / (high - low).clamp_min(1e-12)


def unit(states: Tensor) -> Tensor:
    """states [..., d] in float32, scaled to length one."""
    wide = states.float()
    scaled: Tensor = wide / wide.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return scaled


def cosines(states: Tensor) -> Tensor:
    """The cosines float32 [N, n, n] of all pairs of states [N, n, d]."""
    directions = unit(states)
    return directions @ directions.transpose(1, 2)


def take(states: Tensor, index: Tensor) -> Tensor:
    """states [N, n, d] at index [N, k]: [N, k, d]."""
    return states.gather(1, index[..., None].expand(-1, -1, states.shape[-1]))
