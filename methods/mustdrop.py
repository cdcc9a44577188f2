"""MustDrop: prunes in the vision tower, during prefill and, for decode, in the KV cache."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

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
    UnsupportedError,
    View,
    falling_counts,
    flag_top,
    knob,
    likeness_within,
    mean_visual,
    merge_windows,
    register,
    threshold_for,
    tile_windows,
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
    """

    departures = (
        "By default thresholds are solved for the budget on the first request, and counts are "
        "fixed; the published ones are constants for LLaVA-1.5.",
        "Without a class token the keys are the tokens that all patches attend to most "
        "on average, and no windows are merged; the paper has no such tower.",
        "Under anyres no windows are merged: the rows and newlines need the grid.",
        "With M-RoPE kept tokens keep their positions; the released code numbers them anew.",
        "One count for all rows of a batch: the largest of them, and the fewest merged windows of "
        "all tiles.",
        "The newlines of anyres are never keys.",
        "Below 24 decoder layers, the stages' layers become as deep in proportion.",
    )

    keep: Budget = knob(Fraction(1, 9), "mean over layers of the visual tokens leaving a layer")
    merge: float | None = knob(
        None, "share of 3x3 windows merged in the tower; auto: 0.5 if `keep` can be"
    )
    similarity: float | None = knob(None, "merge windows at least this alike (published: 0.8)")
    global_threshold: float | None = knob(
        None, "share of the text's attention below which a token may go; auto: solved"
    )
    individual_threshold: float | None = knob(
        None, "largest attention weight below which a token may go; auto: as the global one"
    )

    def __post_init__(self) -> None:
        if self.merge is not None and not 0 <= self.merge <= 1:
            raise ValueError(f"merge={self.merge} is not between 0 and 1")
        if self.merge is not None and self.similarity is not None:
            raise ValueError("merge and similarity exclude each other")
        if self.global_threshold is not None and self.global_threshold < 0:
            raise ValueError("global_threshold must not be below 0")
        if self.individual_threshold is not None and self.individual_threshold <= 0:
            raise ValueError("individual_threshold must be above 0")
        if self.individual_threshold is not None and self.global_threshold is None:
            raise ValueError("individual_threshold needs a global_threshold")

    @property
    def fixed(self) -> bool:
        """Whether the counts follow from the budget and not from the data."""
        return self.global_threshold is None and self.similarity is None

    def plan(self, request: Request) -> Plan:
        if request.encoder is not None and request.encoder.resampled:
            raise UnsupportedError(
                "its key tokens are patches of the vision tower, and of such pictures this model "
                "interpolates them to visual tokens, of which none is one patch"
            )
        layers, budget = request.scale(LAYERS), request.budget(self.keep)
        released = Published(maps=range(layers[0], request.layers), host_mask=True)
        if self.fixed and budget == request.visual:
            return Plan(positions="compact", published=released)
        solved = _solve(self, request)
        stages = [
            Stage(Leaving(layer), count if self.fixed else None, Rows("text"))
            for layer, count in zip(layers, solved.counts, strict=True)
        ]
        note = ""
        if self.fixed and abs(solved.mean - budget) > 0.05 * budget:
            above = solved.mean > budget
            bound = "key tokens are never dropped" if above else "windows were merged"
            mean = f"{solved.mean:.0f} visual tokens leave a layer on average"
            note = f"its {bound}: {mean}, not {budget}"
        return Plan(
            [*self._in_tower(request.encoder, solved.tokens), *stages],
            note=note,
            positions="compact",
            compressed=range(layers[0], layers[-1] + 1),
            published=released,
        )

    def _in_tower(self, encoder: Encoder | None, tokens: int) -> tuple[Stage, ...]:
        if encoder is None:
            return ()
        left = None if self.similarity is not None and _merges(encoder) else tokens
        keys = Stage(Tower(encoder.layers - 1), left, Rows(encoder.query))
        return (keys,) if left == encoder.patches else (Stage(Tower(0), left), keys)

    def decide(self, view: View, stage: Stage) -> Keep | None:
        if isinstance(stage.site, Leaving):
            return self._drop(view, stage)
        if not stage.rows:
            return self._merge(view, stage)
        scores = units(view.rows[:, 0], view.request)
        view.set_tag("key", flag_top(scores, _share(scores.shape[-1])))  # never dropped
        return None

    def _merge(self, view: View, stage: Stage) -> Keep | None:
        """Merge like windows in the tower."""
        windows = tile_windows(view.request.tower.side, WINDOW, view.hidden.device)
        alike = likeness_within(view.states, windows)
        if self.similarity is None:
            assert stage.tokens is not None
            merged = (view.count - stage.tokens) // SPARED
        else:  # one host read: the least count over the tiles, which all share
            merged = int((alike >= self.similarity).sum(-1).amin().item())
        return merge_windows(view.states, windows, alike, merged) if merged else None

    def _drop(self, view: View, stage: Stage) -> Keep:
        """Drop what no text attends to in the decoder."""
        import torch

        total = view.rows.sum(1)
        share = total / total.sum(-1, keepdim=True)
        peak = view.rows.amax(1)
        keys = view.tag("key") if view.has_tag("key") else None
        worth = torch.maximum(share, peak / self._leniency())  # goes if it is below the threshold
        ranked = worth
        if keys is not None:  # above all others; where not all of them fit, by their own worth
            ranked = worth + keys * (1 + worth.amax(-1, keepdim=True))
            worth = worth.masked_fill(keys, float("inf"))
        threshold, count = self.global_threshold, 0
        if threshold is None:
            layers = view.request.scale(LAYERS)
            count = _solve(self, view.request).counts[layers.index(stage.layer)]
            threshold = view.solved("threshold", lambda: threshold_for(ranked, count, keys))
        if not self.fixed or view.published:  # the released code has the host read each count
            read = int((worth >= threshold).sum(-1).amax().clamp_min(1).item())
            count = count if self.fixed else read  # half precision has ties at a threshold
        return Keep(ranked.topk(count, -1).indices.sort(-1).values)

    def _leniency(self) -> float:
        """The individual threshold over the global one; 1 as published for most budgets."""
        if not self.global_threshold or self.individual_threshold is None:
            return 1.0
        return self.individual_threshold / self.global_threshold


class _Solved(NamedTuple):
    """tokens: of a tile's patches after merging. counts: visual tokens after each decoder stage.
    mean: over layers of the visual tokens leaving a layer."""

    tokens: int
    counts: tuple[int, ...]
    mean: float


@functools.lru_cache(maxsize=256)
def _solve(method: MustDrop, request: Request) -> _Solved:
    """Half of the windows are merged, or as many as the budget needs; then counts fall by one ratio
    so that their mean meets it, as nearly as key tokens allow, which are never dropped."""
    encoder = request.tower if request.encoder else None
    budget = request.budget(method.keep)
    if encoder is None or not _merges(encoder):
        return _falling(request, budget, encoder.patches if encoder else 0, request.visual)
    windows = (encoder.side // WINDOW) ** 2

    def merging(count: int, budget: int) -> _Solved:
        tokens = encoder.patches - SPARED * count
        return _falling(request, budget, tokens, encoder.tiles * tokens)

    if method.merge is not None:
        return merging(round(windows * method.merge), budget)
    merged = windows // 2
    while merged and encoder.tiles * (encoder.patches - SPARED * merged) < budget:
        merged -= 1  # too much for the budget
    while merged < windows and merging(merged, 0).mean > budget:  # with the key tokens alone
        merged += 1
    return merging(merged, budget)


def _falling(request: Request, budget: int, tokens: int, visual: int) -> _Solved:
    """What the decoder's stages leave of `visual` tokens, `tokens` of a tile."""
    layers, floor = request.scale(LAYERS), 1
    if request.encoder is not None:
        floor = max(1, request.encoder.tiles * _share(tokens // request.merger))
    floors = (floor,) * len(layers)
    counts = falling_counts(request, layers, budget, visual=visual, floors=floors)
    return _Solved(tokens, counts, mean_visual(visual, counts, layers, request.layers))


def _merges(encoder: Encoder) -> bool:
    """Whether windows can be merged: a class token, and nothing after that needs the grid."""
    return encoder.mergeable and encoder.has_cls


def _share(units: int) -> int:
    """How many of a tile's tokens are keys."""
    return -(-units * KEY_SHARE.numerator // KEY_SHARE.denominator)
