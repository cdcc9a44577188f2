"""MustDrop: prunes in the vision tower, during prefill and, for decode, in the KV cache."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from . import (
    Budget,
    Encoder,
    Keep,
    Leaving,
    Method,
    Plan,
    Published,
    Request,
    Rows,
    Stage,
    Tower,
    View,
    falling_counts,
    flag_top,
    keep_reaching,
    knob,
    mean_visual,
    merge_alike,
    register,
    units,
)

LAYERS = (2, 6, 10, 14)
WINDOW = 3  # side of the windows merged in the tower, in patches
SPARED = WINDOW**2 - 1  # tokens that one merged window saves
KEY_SHARE = Fraction(8, 100)


@register("mustdrop")
@dataclass(frozen=True)
class MustDrop(Method):
    """Merge like patches in the tower, drop what no text attends to, shrink the cache for decode.

    Tower: the most alike 3x3 windows of each tile become one token; 8 % of the tokens, those the
    class token attends to most, are keys and never dropped. Prefill: at four layers a token goes
    if both its share of the text's attention and its largest weight are below thresholds. Decode:
    the caches of the layers between the stages keep only the final survivors.

    The thresholds for LLaVA-NeXT are unpublished. By default one threshold a stage is solved on
    the first request, so that the counts fall by one ratio from stage to stage and their mean
    meets `keep`; half of the windows are merged, or as many as the budget needs. Set thresholds
    and `similarity` for the published, data-dependent rules. Windows are merged only where the
    visual tokens need no grid (flat layouts with a class token); with M-RoPE positions are kept.

    Paper: https://arxiv.org/abs/2411.10803
    Code: liuting20/MustDrop

    Departures:
    - By default thresholds are solved for the budget on the first request, and counts are fixed;
      the published ones are constants for LLaVA-1.5.
    - Without a class token the keys are the tokens that all patches attend to most on average, and
      no windows are merged; the paper has no such tower.
    - Under anyres no windows are merged: the rows and newlines need the grid.
    - With M-RoPE kept tokens keep their positions; the released code numbers them anew.
    - One count for all rows of a batch: the largest of them, and the fewest merged windows of all
      tiles.
    - The newlines of anyres are never keys.
    - Below 24 decoder layers, the stages' layers become as deep in proportion.
    """

    keep: Budget = knob(Fraction(1, 9), "mean over layers of the visual tokens leaving a layer")
    merge: float | None = knob(
        None, "share of 3x3 windows that are merged; auto: 0.5 if it can be", least=0, most=1
    )
    similarity: float | None = knob(None, "merge if this alike (published: 0.8)", least=-1, most=1)
    global_threshold: float | None = knob(
        None, "share of the text's attention below which a token may go; auto: solved", least=0
    )
    individual_threshold: float | None = knob(
        None, "largest weight below which a token may go; auto: as the global one", least=1e-9
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.merge is not None and self.similarity is not None:
            raise ValueError("merge and similarity exclude each other")
        if self.individual_threshold is not None and self.global_threshold is None:
            raise ValueError("individual_threshold needs a global_threshold")

    @property
    def fixed(self) -> bool:
        """Whether the counts follow from the budget and not from the data."""
        return self.global_threshold is None and self.similarity is None

    def plan(self, request: Request) -> Plan:
        layers, budget = request.scale(LAYERS), request.budget(self.keep)
        released = Published(maps=range(layers[0], request.layers), host_mask=True)
        if self.fixed and budget == request.visual:
            return Plan(positions="compact", published=released)
        merged = self._merged(request)
        visual, counts = self._counts(request, merged)
        stages = [
            Stage(Leaving(layer), count if self.fixed else None, Rows("text"))
            for layer, count in zip(layers, counts, strict=True)
        ]
        if request.encoder is not None:
            stages = self._in_tower(request.tower_of_tokens, merged) + stages
        mean, note = mean_visual(visual, counts, layers, request.layers), ""
        if self.fixed and abs(mean - budget) > 0.05 * budget:
            bound = "key tokens are never dropped" if mean > budget else "windows were merged"
            note = f"its {bound}: {mean:.0f} visual tokens leave a layer on average, not {budget}"
        compressed = range(layers[0], layers[-1] + 1)
        return Plan(stages, "compact", compressed, released, note=note)

    def _in_tower(self, tower: Encoder, merged: int) -> list[Stage]:
        """Merging behind the first layer, where windows are merged; the keys behind the last."""
        by_data = self.similarity is not None and tower.prunes_by_cls
        left = None if by_data else tower.patches - SPARED * merged
        keys = Stage(Tower(tower.layers - 1), left, Rows(tower.query))
        return [keys] if left == tower.patches else [Stage(Tower(0), left), keys]

    def _merged(self, request: Request) -> int:
        """Windows of a tile that are merged: half of them, or as many as the budget needs."""
        if request.encoder is None or not request.tower_of_tokens.prunes_by_cls:
            return 0
        tower, budget, depth = request.tower, request.budget(self.keep), request.layers
        windows, first = (tower.side // WINDOW) ** 2, request.scale(LAYERS)[0]
        if self.merge is not None:
            return round(windows * self.merge)
        merged = min(windows // 2, (request.visual - budget) // (SPARED * tower.tiles))
        while merged < windows:
            visual, keys = _entering(request, merged)
            if visual * first + keys * (depth - first) <= budget * depth:  # with the keys alone
                break
            merged += 1
        return merged

    def _counts(self, request: Request, merged: int) -> tuple[int, tuple[int, ...]]:
        """The visual tokens that enter the decoder, and those that leave each stage."""
        visual, keys = _entering(request, merged)
        layers, budget = request.scale(LAYERS), request.budget(self.keep)
        floors = (keys,) * len(layers)
        return visual, falling_counts(request, layers, budget, visual=visual, floors=floors)

    def decide(self, view: View, stage: Stage) -> Keep | None:
        if isinstance(stage.site, Leaving):
            return self._drop(view, stage)
        if not stage.rows:
            return merge_alike(view, WINDOW, stage.tokens, self.similarity)
        scores = units(view.rows[:, 0], view.request)
        view.set_tag("key", flag_top(scores, math.ceil(KEY_SHARE * scores.shape[-1])))
        return None

    def _drop(self, view: View, stage: Stage) -> Keep:
        """Drop what no text attends to in the decoder, but no keys."""
        total, peak = view.rows.sum(1), view.rows.amax(1)
        if self.global_threshold and self.individual_threshold:
            peak = peak * (self.global_threshold / self.individual_threshold)
        worth = peak.maximum(total / total.sum(-1, keepdim=True))  # goes if it is below
        keys = view.tag("key") if view.has_tag("key") else total < 0  # none

        def wanted() -> int:
            _, counts = self._counts(view.request, self._merged(view.request))
            return counts[view.request.scale(LAYERS).index(stage.layer)]

        return keep_reaching(view, stage, worth, keys, self.global_threshold, wanted)


def _entering(request: Request, merged: int) -> tuple[int, int]:
    """Visual tokens that enter the decoder with so many windows of a tile merged, and how many of
    them are keys."""
    tower, spared = request.encoder, SPARED * merged
    if tower is None:
        return request.visual, 1
    keys = math.ceil(KEY_SHARE * ((tower.patches - spared) // request.merger))
    return request.visual - tower.tiles * spared, tower.tiles * keys
