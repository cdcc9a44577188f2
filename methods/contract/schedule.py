"""Schedules that many methods share: scored in the tower, or with counts that meet a mean."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence

from .plan import Plan, Projected, Published, Read, Rows, Stage, Tower
from .request import BudgetError, Request


def scored_in_tower(
    request: Request,
    count: int,
    *more: Read,
    flops: int = 0,
    launches: tuple[int | None, int | None] = (None, None),
) -> Plan:
    """Read attention where the tower's output is projected, and keep `count` tokens before the
    decoder; all of them, if that is all. more: what else is read there. flops: of the choice.
    launches: operators that reading and choosing call."""
    tower = request.tower
    if count == request.visual:
        return Plan()
    site, reads = Tower(tower.feature_layer), (Rows(tower.query), *more)
    scored = Stage(site, tower.patches, reads, launches=launches[0])
    chosen = Stage(Projected(), count, flops=flops, launches=launches[1])
    return Plan([scored, chosen], published=Published(tower_maps=range(tower.layers)))


def mean_visual(visual: int, counts: Sequence[int], layers: Sequence[int], depth: int) -> float:
    """Mean over `depth` layers of visual tokens: `visual` up to the first of `layers`, from there
    on the first of `counts`, and so on."""
    spans = [stop - start for start, stop in itertools.pairwise((0, *layers, depth))]
    return sum(n * span for n, span in zip((visual, *counts), spans, strict=True)) / depth


def falling_counts(
    request: Request,
    layers: Sequence[int],
    budget: int,
    *,
    visual: int | None = None,
    floors: Sequence[int] = (),
) -> tuple[int, ...]:
    """Counts that fall by one ratio at each of `layers`, the first that see them, so that the mean
    over all layers is `budget`.

    visual: tokens at first; those of the request if None. floors: the least at each stage, with
    which the budget is met as nearly as can be. Without them, raises BudgetError where even the
    least is more than 5 % above it.
    """
    first, depth = request.visual if visual is None else visual, request.layers
    least = tuple(floors) or (1,) * len(layers)
    counts = _falling(depth, tuple(layers), budget, first, least)
    if not floors and mean_visual(first, counts, layers, depth) > 1.05 * budget:
        raise _unmet(budget, first, layers, depth, mean_visual(first, least, layers, depth))
    return counts


@functools.lru_cache(maxsize=256)  # a plan is made in every request
def _falling(
    depth: int, layers: tuple[int, ...], budget: int, first: int, least: tuple[int, ...]
) -> tuple[int, ...]:
    """Bisects the ratio by which `first` falls at each of `layers`, down to `least`."""

    def counts(ratio: float) -> tuple[int, ...]:
        falling = (round(first * ratio ** (stage + 1)) for stage in range(len(layers)))
        return tuple(map(max, least, falling))

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        enough = mean_visual(first, counts(middle), layers, depth) >= budget
        low, high = (low, middle) if enough else (middle, high)
    return counts(high)


def scaled_counts(
    request: Request,
    layers: Sequence[int],
    budget: int,
    weights: Sequence[float],
    left: Callable[[int, int], int],
) -> tuple[int, ...]:
    """Counts in the ratio of `weights` that are kept at each of `layers`, the first that see them,
    so that the mean over all layers comes nearest to `budget`.

    left: of the tokens before a stage and those that it keeps, how many go on, with those that it
    merges. Raises BudgetError where that mean is more than 5 % off.
    """

    visual, depth, least = request.visual, request.layers, (1,) * len(layers)
    best = _scaled(depth, tuple(layers), budget, visual, tuple(weights), left)
    if abs(_mean_left(best, left, visual, layers, depth) - budget) > 0.05 * budget:
        mean = _mean_left(least, left, visual, layers, depth)
        raise _unmet(budget, visual, layers, depth, mean)
    return best


@functools.lru_cache(maxsize=256)  # a plan is made in every request
def _scaled(
    depth: int,
    layers: tuple[int, ...],
    budget: int,
    visual: int,
    weights: tuple[float, ...],
    left: Callable[[int, int], int],
) -> tuple[int, ...]:
    """Tries every count of the first of `layers`."""
    scaled = (
        tuple(max(1, round(first * weight / weights[0])) for weight in weights)
        for first in range(1, visual)
    )
    return min(
        scaled,
        key=lambda counts: abs(_mean_left(counts, left, visual, layers, depth) - budget),
        default=(1,) * len(layers),
    )


def _mean_left(
    counts: Sequence[int],
    left: Callable[[int, int], int],
    visual: int,
    layers: Sequence[int],
    depth: int,
) -> float:
    """The mean over layers where what goes on of `counts` is what `left` says."""
    onward = list(itertools.accumulate(counts, left, initial=visual))[1:]
    return mean_visual(visual, onward, layers, depth)


def _unmet(
    budget: int, visual: int, layers: Sequence[int], depth: int, least: float
) -> BudgetError:
    return BudgetError(
        f"{budget} of {visual} visual tokens cannot be the mean over {depth} layers: with the "
        f"first stage at layer {layers[0]} the least is {least:.1f}"
    )
