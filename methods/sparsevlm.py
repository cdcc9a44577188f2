"""SparseVLM: text tokens rate the visual ones at several layers; the pruned are recycled."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from . import (
    Budget,
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
    density_merge_flops,
    keep_and_merge,
    knob,
    largest_rank,
    register,
    rotary_products,
    scaled_counts,
    take,
)

if TYPE_CHECKING:
    from torch import Tensor


LAYERS = {"1.0": (2, 6, 15, 19), "1.5": (2, 6, 15), "2.0": (2, 6, 15)}
# Kept of 576 at these layers, for mean budgets 192, 128, 96, 64; by 1.0 equally many at each.
COUNTS: dict[str, dict[int, tuple[int, ...]]] = {
    "1.0": {0: (1, 1, 1, 1)},
    "1.5": {192: (300, 200, 110), 128: (303, 110, 36), 96: (238, 48, 26), 64: (66, 30, 17)},
    "2.0": {192: (300, 200, 118), 128: (238, 108, 60), 96: (246, 54, 28), 64: (66, 34, 20)},
}
POOL_SHARE, CLUSTER_SHARE, HEADS = 0.3, 10, 14  # heads that 2.0 hears: half of Qwen2-VL-7B's


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

    Departures:
    - 1.0: by default the counts follow from the budget, so that they are known before it runs; the
      released code takes rank * scale + bias: adaptive=true.
    - 1.5 and 2.0: counts are published for 576 visual tokens and mean budgets of 192, 128, 96 and
      64; for others those of the nearest share are scaled.
    - 2.0: of fewer than 28 heads half are heard, not 14; what positions alone would give is
      computed for the rows that are read, in the released code for all tokens and heads.
    - With M-RoPE kept tokens keep their positions, and a merged one has that of its best scored
      member; the released code, which knows no M-RoPE, numbers them anew.
    - One count for all rows of a batch: with adaptive=true the largest rank of them decides; the
      released code takes one sample.
    - Raters are marked in one mask over all text tokens, where the released code picks rows.
    - All words of a question rate where the picture resembles them alike; in the released code none
      does, and no score is a number.
    - The noise that breaks ties between equally dense tokens is drawn by a fixed seed.
    - Below 24 decoder layers, the stages' layers become as deep in proportion.
    """

    keep: Budget = knob(Fraction(1, 9), "mean over layers of the visual tokens leaving a layer")
    version: Literal["1.0", "1.5", "2.0"] = knob(
        "1.0", "1.0: four stages by rank; 1.5: three, fixed; 2.0: three, by corrected attention"
    )
    recycle: bool = knob(True, "1.0, 1.5: merge pruned tokens into a few appended ones")
    adaptive: bool = knob(False, "1.0: the rank of the attention decides each count")
    scale: float | None = knob(None, "1.0, adaptive: tokens per rank; auto: meets `keep`", least=0)
    bias: float = knob(0.0, "1.0, adaptive: tokens added to rank * scale")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.version != "1.0" and self.adaptive:
            raise ValueError(f"version={self.version} has fixed counts; adaptive=true is of 1.0")
        if not self.adaptive and (self.scale, self.bias) != (None, 0):
            raise ValueError("scale and bias need adaptive=true")

    @property
    def plus(self) -> bool:
        """Whether it is SparseVLM+."""
        return self.version == "2.0"

    def plan(self, request: Request) -> Plan:
        released = Published(maps=range(request.layers), host_mask=True, decode=True)
        whole = request.budget(self.keep) == request.visual and not self.adaptive
        stages = [] if whole else self._stages(request)
        return Plan(stages, "keep" if self.plus else "compact", published=released)

    def _stages(self, request: Request) -> list[Stage]:
        before, layers = request.visual, self.layers(request)
        raters = Stage(Entering(0), before, flops=2 * before * request.after * request.hidden)
        if self.adaptive:
            return [raters, *(Stage(Leaving(layer), None, Rows("text")) for layer in layers)]
        rows, stages = Rows("text", heads="each" if self.plus else "mean"), [raters]
        for layer, kept in zip(layers, self.counts(request), strict=True):
            flops = density_merge_flops(request.hidden, *self.recycled(before - kept))
            if self.plus:
                flops = (2 * before * request.after * request.head_dim,) * 2
            before = self._left(before, kept)
            stages.append(Stage(Leaving(layer), before, rows, *flops))
        return stages

    def decide(self, view: View, stage: Stage) -> Keep | None:
        if not stage.rows:
            view.remember("raters", _raters(view))
            return None
        raters = view.recall("raters")
        scores = _corrected(view, raters) if self.plus else _rated(view.rows, raters)
        kept = self._count(view, stage, raters)
        if kept >= view.count:
            return None
        return keep_and_merge(view, scores, kept, *self.recycled(view.count - kept))

    def layers(self, request: Request) -> tuple[int, ...]:
        """The layers whose output is pruned."""
        return request.scale(LAYERS[self.version])

    def counts(self, request: Request) -> tuple[int, ...]:
        """Visual tokens kept at each stage, merged ones not counted."""
        budget, layers, visual = request.budget(self.keep), self.layers(request), request.visual
        published = COUNTS[self.version]
        nearest = min(published, key=lambda of: abs(of / 576 - budget / visual))
        if nearest == budget and visual == 576 and layers == LAYERS[self.version]:
            return published[nearest]
        return scaled_counts(request, layers, budget, published[nearest], self._left)

    def recycled(self, pruned: int) -> tuple[int, int]:
        """Pool and clusters that `pruned` tokens are recycled into."""
        if not self.recycle or self.plus or pruned < 1:
            return 0, 0
        pool = min(int(POOL_SHARE * pruned) + 1, pruned)
        return pool, int(pool / CLUSTER_SHARE) + 1

    def _left(self, before: int, kept: int) -> int:
        """The tokens behind a stage, merged ones included."""
        return kept + self.recycled(before - kept)[1] if kept < before else before

    def _count(self, view: View, stage: Stage, raters: Tensor) -> int:
        """How many stay; the data tells where it is adaptive."""
        layers, rank = self.layers(view.request), 0
        if self.version == "1.0" and (self.adaptive or view.published):
            # Zero rows do not change a rank. The released code waits for the host more often still.
            rank = largest_rank(view.rows * (raters > 0)[..., None])
        if not self.adaptive:
            return self.counts(view.request)[layers.index(stage.layer)]
        scale = self.scale
        if scale is None:
            kept = self.counts(view.request)[layers.index(stage.layer)]
            scale = view.solved("scale", lambda: kept / max(rank, 1), layer=layers[0])
        wanted = max(1, min(int(rank * scale + self.bias), view.count - 1))
        return view.count if rank == view.count else wanted


def _raters(view: View) -> Tensor:
    """1.0 for each text token [B, T] that the picture resembles more than average; for all where
    none does, as in a text of one word again and again."""
    likeness = (view.states @ view.text.transpose(1, 2)).float().softmax(-1).mean(1)
    above = likeness > likeness.mean(-1, keepdim=True)
    return (above | ~above.any(-1, keepdim=True)).float()


def _rated(rows: Tensor, raters: Tensor) -> Tensor:
    """Sums [N, ..., n] over the raters [N, T] of attention rows [N, ..., T, n]: as many for every
    token of a sample, so that the order is that of their means."""
    return (rows * raters.view(len(raters), *(1,) * (rows.dim() - 3), -1, 1)).sum(-2)


def _corrected(view: View, raters: Tensor) -> Tensor:
    """Version 2.0: attention [N, n] of the raters, as `_rated`, over the heads that attend to the
    picture most, divided by what rotary positions alone would give."""
    rated = _rated(view.rows / rotary_products(view)[:, None], raters)
    heard = min(HEADS, max(1, view.request.heads // 2))
    return take(rated, rated.sum(-1).topk(heard, -1).indices).mean(1)
