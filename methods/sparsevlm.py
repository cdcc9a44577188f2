"""SparseVLM: text tokens rate the visual ones at several layers; the pruned are recycled."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from . import (
    Budget,
    BudgetError,
    Entering,
    Keep,
    Leaving,
    Method,
    Plan,
    Published,
    Request,
    Rows,
    Stage,
    View,
    knob,
    register,
    take,
)

if TYPE_CHECKING:
    from torch import Tensor


LAYERS = {"1.0": (2, 6, 15, 19), "1.5": (2, 6, 15), "2.0": (2, 6, 15)}
# Kept of 576 at the three layers of later versions, for mean budgets 192, 128, 96, 64.
COUNTS = {
    "1.5": {192: (300, 200, 110), 128: (303, 110, 36), 96: (238, 48, 26), 64: (66, 30, 17)},
    "2.0": {192: (300, 200, 118), 128: (238, 108, 60), 96: (246, 54, 28), 64: (66, 34, 20)},
}
POOL_SHARE, CLUSTER_SHARE = 0.3, 10
HEADS = 14  # that version 2.0 hears: half of those of Qwen2-VL-7B


@register("sparsevlm")
@dataclass(frozen=True)
class SparseVLM(Method):
    """At several layers, keep the visual tokens that the relevant text attends to; merge the rest.

    Relevant text ("raters") is chosen once, on the input embeddings. After each stage's layer the
    best of the pruned tokens are clustered by density peaks and appended as merged tokens. With
    M-RoPE, which has no compact positions, each stands where the best scored of its members stood.
    Version 1.0 keeps rank * scale + bias tokens: by default the scale is solved for the budget,
    so the counts are fixed; `adaptive` lets the rank of the attention decide. Version 2.0
    (SparseVLM+) divides attention by what rotary positions alone would give, hears the heads that
    attend to the picture most, merges nothing, and tokens keep their positions.

    Paper: https://arxiv.org/abs/2410.04417
    Code: Gumpest/SparseVLMs
    """

    departures = (
        "1.0: by default the counts follow from the budget, so that they are known before it runs; "
        "the released code takes rank * scale + bias: adaptive=true.",
        "1.5 and 2.0: counts are published for 576 visual tokens and mean budgets of 192, 128, 96 "
        "and 64; for others those of the nearest share are scaled.",
        "2.0: of fewer than 28 heads half are heard, not 14; what positions alone would give is "
        "computed for the rows that are read, in the released code for all tokens and heads.",
        "With M-RoPE kept tokens keep their positions, and a merged one has that of its best "
        "scored member; the released code, which knows no M-RoPE, numbers them anew.",
        "One count for all rows of a batch: with adaptive=true the largest rank of them decides; "
        "the released code takes one sample.",
        "Raters are marked in one mask over all text tokens, where the released code picks rows.",
        "All words of a question rate where the picture resembles them alike; in the released code "
        "none does, and no score is a number.",
        "The noise that breaks ties between equally dense tokens is drawn by a fixed seed.",
        "Below 24 decoder layers, the stages' layers become as deep in proportion.",
    )

    keep: Budget = knob(Fraction(1, 9), "mean over layers of the visual tokens leaving a layer")
    version: Literal["1.0", "1.5", "2.0"] = knob(
        "1.0", "1.0: four stages by rank; 1.5: three, fixed; 2.0: three, by corrected attention"
    )
    recycle: bool = knob(True, "1.0, 1.5: merge pruned tokens into a few appended ones")
    adaptive: bool = knob(False, "1.0: the rank of the attention decides each count")
    scale: float | None = knob(None, "1.0, adaptive: tokens per rank; auto: meets `keep`")
    bias: float = knob(0.0, "1.0, adaptive: tokens added to rank * scale")

    def __post_init__(self) -> None:
        if self.version != "1.0" and self.adaptive:
            raise ValueError(f"version={self.version} has fixed counts; adaptive=true is of 1.0")

    @property
    def plus(self) -> bool:
        """Whether it is SparseVLM+."""
        return self.version == "2.0"

    def plan(self, request: Request) -> Plan:
        released = Published(maps=range(request.layers), host_mask=True, decode=True)
        plan = Plan(positions="keep" if self.plus else "compact", published=released)
        if request.budget(self.keep) == request.visual and not self.adaptive:
            return plan
        raters = 2 * request.visual * request.after * request.hidden
        stages = [Stage(Entering(0), request.visual, flops=raters)]
        before = request.visual
        for stage_index, layer in enumerate(self.layers(request)):
            if self.adaptive:
                stages.append(Stage(Leaving(layer), None, Rows("text")))
                continue
            kept = self.counts(request)[stage_index]
            pool, clusters = self.recycled(before - kept)
            if self.plus:
                flops = published = 2 * before * request.after * request.head_dim
                rows = Rows("text", heads="each")
            else:
                flops = _flops(request.hidden, pool, clusters)
                published = _flops(request.hidden, pool, clusters, published=True)
                rows = Rows("text")
            before = kept + clusters
            stages.append(Stage(Leaving(layer), before, rows, flops, published))
        return replace(plan, stages=stages)

    def decide(self, view: View, stage: Stage) -> Keep | None:
        if not stage.rows:
            view.remember("raters", _raters(view))
            return None
        raters = view.recall("raters")
        scores = _corrected(view, raters) if self.plus else _rated(view.rows, raters)
        kept = self._count(view, stage, raters)
        if kept >= view.count:
            return None
        ranked = scores.argsort(dim=-1, descending=True, stable=True)
        stay = ranked[:, :kept].sort(-1).values
        pool, clusters = self.recycled(view.count - kept)
        if not clusters:
            return Keep(stay)
        rest, ranks = ranked[:, kept : kept + pool].sort(-1)
        flops = _flops(view.request.hidden, pool, clusters, published=view.published)
        return replace(_recycle(view, stay, rest, ranks, clusters), flops=flops)

    def layers(self, request: Request) -> tuple[int, ...]:
        """The layers whose output is pruned."""
        return request.scale(LAYERS[self.version])

    def counts(self, request: Request) -> tuple[int, ...]:
        """Visual tokens kept at each stage, merged ones not counted."""
        return _solve(self, request)

    def recycled(self, pruned: int) -> tuple[int, int]:
        """Pool and clusters that `pruned` tokens are recycled into."""
        if not self.recycle or self.plus or pruned < 1:
            return 0, 0
        pool = min(int(POOL_SHARE * pruned) + 1, pruned)
        return pool, int(pool / CLUSTER_SHARE) + 1

    def _count(self, view: View, stage: Stage, raters: Tensor) -> int:
        if self.version != "1.0" or not (self.adaptive or view.published):
            return self._planned(view.request, stage)
        # Zero rows do not change a rank. Its SVD and the read make the host wait, as in the
        # released code, which waits more often still.
        import torch

        seen = view.rows * (raters > 0)[..., None]
        rank = int(torch.linalg.matrix_rank(seen).amax().item())
        if not self.adaptive:
            return self._planned(view.request, stage)
        if rank == view.count:
            return view.count
        scale = self.scale
        if scale is None:
            first = self.layers(view.request)[0]
            scale = view.solved(
                "scale", lambda: self._planned(view.request, stage) / max(rank, 1), layer=first
            )
        return max(1, min(int(rank * scale + self.bias), view.count - 1))

    def _planned(self, request: Request, stage: Stage) -> int:
        return self.counts(request)[self.layers(request).index(stage.layer)]


@functools.lru_cache(maxsize=256)
def _solve(method: SparseVLM, request: Request) -> tuple[int, ...]:
    """Counts that bring the mean over layers nearest to the budget."""
    budget, layers = request.budget(method.keep), method.layers(request)
    visual = request.visual
    published = COUNTS.get(method.version, {})
    weights = _published_weights(published, budget / visual) if published else (1.0,) * 4
    best, error = (1,) * len(layers), float("inf")
    for first in range(1, visual):
        counts = tuple(max(1, round(first * weight / weights[0])) for weight in weights)
        off = abs(_mean(method, request, layers, counts) - budget)
        if off < error:
            best, error = counts, off
    if error > 0.05 * budget:
        least = _mean(method, request, layers, (1,) * len(layers))
        raise BudgetError(
            f"sparsevlm cannot average {budget} of {visual} visual tokens over {request.layers} "
            f"layers: with its first stage after layer {layers[0]} the least is {least:.1f}"
        )
    if layers == LAYERS["1.5"] and visual == 576 and budget in published:
        return published[budget]
    return best


def _flops(width: int, pool: int, clusters: int, *, published: bool = False) -> int:
    """Matrix products of recycling: inner products of the pool, and the clusters' means.

    The released code takes distances from differences, element by element: none are counted.
    """
    means = 2 * clusters * pool * width
    return means if published else means + 2 * pool * pool * width


def _published_weights(counts: Mapping[int, tuple[int, ...]], share: float) -> tuple[int, ...]:
    nearest = min(counts, key=lambda budget: abs(budget / 576 - share))
    return counts[nearest]


def _mean(
    method: SparseVLM, request: Request, layers: tuple[int, ...], counts: tuple[int, ...]
) -> float:
    """Mean over layers of the visual tokens leaving a layer."""
    total, now, layer = 0, request.visual, 0
    for stage, kept in zip(layers, counts, strict=True):
        total += now * (stage - layer)
        layer = stage
        if kept < now:
            now = kept + method.recycled(now - kept)[1]
    return (total + now * (request.layers - layer)) / request.layers


def _raters(view: View) -> Tensor:
    """1.0 for each text token [B, T] that the picture resembles more than average; for all where
    none does, as in a text of one word again and again."""
    likeness = (view.states @ view.text.transpose(1, 2)).float().softmax(-1).mean(1)
    above = likeness > likeness.mean(-1, keepdim=True)
    return (above | ~above.any(-1, keepdim=True)).float()


def _rated(rows: Tensor, raters: Tensor) -> Tensor:
    """Mean [N, ..., n] over the raters [N, T] of attention rows [N, ..., T, n]."""
    shape = (len(raters), *(1,) * (rows.dim() - 3), -1, 1)
    return (rows * raters.view(shape)).sum(-2) / raters.sum(-1).view(shape[:-1])


def _corrected(view: View, raters: Tensor) -> Tensor:
    """Version 2.0: mean attention [N, n] of the raters over the heads that attend to the picture
    most, divided by the scaled product of a query and a key of ones that rotary positions turn."""
    import torch

    assert view.rotary is not None
    cos, sin = (table.float().expand(view.hidden.shape[0], -1, -1) for table in view.rotary)
    half, width = cos.shape[-1] // 2, cos.shape[-1]
    ones = torch.cat([(cos - sin)[..., :half], (cos + sin)[..., half:]], -1)
    text, visual = ones[:, view.arrangement.stop :], view.arrangement.visual(ones)
    gravity = text @ visual.transpose(1, 2) / width**0.5
    rated = _rated(view.rows / gravity[:, None], raters)
    heads = view.request.heads
    heard = rated.sum(-1).topk(min(HEADS, max(1, heads // 2)), -1).indices
    return take(rated, heard).mean(1)


def _recycle(view: View, stay: Tensor, pool: Tensor, ranks: Tensor, clusters: int) -> Keep:
    """Cluster the pool by density peaks; its clusters' means follow the tokens that stay.

    stay [B, k] and pool [B, M]: places in ascending order. ranks [B, M]: the order of the pool by
    falling score. A merged token has the place of its member of best rank.
    """
    import torch

    pooled = take(view.states, pool)
    states = pooled.float()
    distance = _differences(pooled) if view.published else _distances(states)
    nearest = distance.topk(clusters, -1, largest=False).values
    noise = view.random(distance.shape[-1]) * 1e-6  # breaks ties, as in the released code
    density = (-(nearest**2).mean(-1)).exp() + noise
    denser = density[:, None, :] > density[:, :, None]
    farthest = distance.flatten(1).amax(-1)[:, None, None]
    gap = distance.where(denser, farthest).amin(-1)
    centres = (gap * density).topk(clusters, -1).indices
    to_centre = distance.gather(1, centres[..., None].expand(-1, -1, distance.shape[-1]))
    numbers = torch.arange(clusters, device=states.device)[:, None]
    # A centre is of its own cluster, as in the released code: it may have exact duplicates.
    cluster = to_centre.argmin(1).scatter(1, centres, numbers.T.expand_as(centres))
    member = cluster[:, None] == numbers
    merged = (member.float() @ states) / member.sum(-1, keepdim=True).clamp_min(1)
    best = ranks[:, None].where(member, ranks.shape[-1]).argmin(-1)
    index = torch.cat([stay, pool.gather(1, best)], 1)
    features = torch.cat([take(view.states, stay), merged.to(view.hidden.dtype)], 1)
    flags = torch.arange(index.shape[1], device=index.device) >= stay.shape[1]
    return Keep(index, features, flags)


def _distances(states: Tensor) -> Tensor:
    """Euclidean distances [B, M, M] over sqrt(d) between states [B, M, d], by inner products."""
    centred = states - states.mean(1, keepdim=True)
    squares = (centred**2).sum(-1)
    inner = centred @ centred.transpose(1, 2)
    squared = squares[:, :, None] + squares[:, None] - 2 * inner
    euclidean: Tensor = squared.clamp_min(0).sqrt()
    return euclidean.div(states.shape[-1] ** 0.5)


def _differences(states: Tensor) -> Tensor:
    """The same as the released code does it: all differences [B, M, M, d] first, in the dtype of
    the model; gigabytes on LLaVA-NeXT."""
    difference = states[:, :, None] - states[:, None]
    distance: Tensor = difference.norm(dim=-1).float()
    return distance.div(states.shape[-1] ** 0.5)
