"""MustDrop: prunes in the vision tower, during prefill and, for decode, in the KV cache."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

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
    knob,
    mean_visual,
    register,
    take,
    unit,
)

if TYPE_CHECKING:
    from torch import Tensor, device


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
        "Without a class token (Qwen2-VL) the keys are the tokens that all patches attend to most "
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
        layers = request.scale(LAYERS)
        released = Published(maps=range(layers[0], request.layers), host_mask=True)
        if self.fixed and request.budget(self.keep) == request.visual:
            return Plan(positions="compact", published=released)
        tokens, counts = _solve(self, request)
        stages = [
            Stage(Leaving(layer), count if self.fixed else None, Rows("text"))
            for layer, count in zip(layers, counts, strict=True)
        ]
        mean, budget = _mean(request, tokens, counts), request.budget(self.keep)
        note = ""
        if self.fixed and abs(mean - budget) > 0.05 * budget:
            bound = "key tokens are never dropped" if mean > budget else "windows were merged"
            note = f"its {bound}: {mean:.0f} visual tokens leave a layer on average, not {budget}"
        return Plan(
            [*self._in_tower(request.encoder, tokens), *stages],
            note=note,
            positions="compact",
            compressed=range(layers[0], layers[-1] + 1),
            published=released,
        )

    def _in_tower(self, encoder: Encoder | None, tokens: int) -> tuple[Stage, ...]:
        if encoder is None:
            return ()
        left = None if self._by_likeness(encoder) else tokens
        rows = Rows(encoder.query)
        keys = Stage(Tower(encoder.layers - 1), left, rows)
        return (keys,) if left == encoder.patches else (Stage(Tower(0), left), keys)

    def _by_likeness(self, encoder: Encoder | None) -> bool:
        """Whether the data tells how many windows are merged."""
        return self.similarity is not None and _merges(encoder)

    def decide(self, view: View, stage: Stage) -> Keep | None:
        if isinstance(stage.site, Leaving):
            return self._drop(view, stage)
        if not stage.rows:
            return self._merge(view, stage)
        view.set_tag("key", _keys(view.rows[:, 0], view.request.merger))  # never dropped
        return None

    def _merge(self, view: View, stage: Stage) -> Keep | None:
        """Merge like windows in the tower."""
        encoder = view.request.encoder
        assert encoder is not None
        windows = _windows(encoder.side, view.hidden.device)
        alike = _likeness(view.states, windows)
        if self.similarity is None:
            assert stage.tokens is not None
            merged = (encoder.patches - stage.tokens) // SPARED
        else:  # one host read: the least count over the tiles, which all share
            merged = int((alike >= self.similarity).sum(-1).amin().item())
        return _merge(view.states, windows, alike, merged) if merged else None

    def _drop(self, view: View, stage: Stage) -> Keep:
        """Drop what no text attends to in the decoder."""
        import torch

        total = view.rows.sum(1)
        share = total / total.sum(-1, keepdim=True)
        peak = view.rows.amax(1)
        keys = view.tag("key") if view.has_tag("key") else None
        lenient = self._leniency()
        worth = torch.maximum(share, peak / lenient)  # a token goes if this is below threshold
        ranked = worth
        if keys is not None:  # above all others; where not all of them fit, by their own worth
            ranked = worth + keys * (1 + worth.amax(-1, keepdim=True))
            worth = worth.masked_fill(keys, float("inf"))
        threshold, count = self.global_threshold, 0
        if threshold is None:
            count = _solve(self, view.request)[1][self._place(view.request, stage)]
            threshold = view.solved("threshold", lambda: _between(ranked, count, keys))
        if not self.fixed or view.published:  # the released code has the host read each count
            read = int((worth >= threshold).sum(-1).amax().clamp_min(1).item())
            count = count if self.fixed else read  # half precision has ties at a threshold
        return Keep(ranked.topk(count, -1).indices.sort(-1).values)

    def _place(self, request: Request, stage: Stage) -> int:
        return request.scale(LAYERS).index(stage.layer)

    def _leniency(self) -> float:
        """The individual threshold over the global one; 1 as published for most budgets."""
        if not self.global_threshold or self.individual_threshold is None:
            return 1.0
        return self.individual_threshold / self.global_threshold


@functools.lru_cache(maxsize=256)
def _solve(method: MustDrop, request: Request) -> tuple[int, tuple[int, ...]]:
    """Patch tokens per tile after merging, and visual tokens after each decoder stage."""
    encoder, budget = request.encoder, request.budget(method.keep)
    if encoder is None or not _merges(encoder):
        tokens = encoder.patches if encoder else 0
        return tokens, _stage_counts(request, budget, tokens)
    windows = (encoder.side // WINDOW) ** 2
    if method.merge is not None:
        tokens = encoder.patches - SPARED * round(windows * method.merge)
        return tokens, _stage_counts(request, budget, tokens)
    merged = windows // 2
    tokens = encoder.patches - SPARED * merged
    while merged and _visual(request, tokens) < budget:  # too much for the budget
        merged, tokens = merged - 1, tokens + SPARED
    while merged < windows and _mean(request, tokens, _floors(request, tokens)) > budget:
        merged, tokens = merged + 1, tokens - SPARED
    return tokens, _stage_counts(request, budget, tokens)


def _stage_counts(request: Request, budget: int, tokens: int) -> tuple[int, ...]:
    """Counts after each stage, falling by one ratio, whose mean over layers meets the budget.

    Key tokens are never dropped: a budget below what they allow is met as nearly as can be.
    """
    return falling_counts(
        request,
        request.scale(LAYERS),
        budget,
        visual=_visual(request, tokens),
        floors=_floors(request, tokens),
    )


def _floors(request: Request, tokens: int) -> tuple[int, ...]:
    """The least that each stage can leave: the key tokens."""
    return (max(1, _key_count(request, tokens)),) * len(LAYERS)


def _mean(request: Request, tokens: int, counts: tuple[int, ...]) -> float:
    """Mean over layers of the visual tokens leaving a layer."""
    layers = request.scale(LAYERS)
    return mean_visual(_visual(request, tokens), counts, layers, request.layers)


def _visual(request: Request, tokens: int) -> int:
    encoder = request.encoder
    return encoder.tiles * tokens if encoder and _merges(encoder) else request.visual


def _merges(encoder: Encoder | None) -> bool:
    """Whether windows can be merged: a class token, and nothing after that needs the grid."""
    return encoder is not None and encoder.mergeable and encoder.has_cls


def _key_count(request: Request, tokens: int) -> int:
    if request.encoder is None:
        return 0
    units = tokens // request.merger
    return request.encoder.tiles * -(-units * KEY_SHARE.numerator // KEY_SHARE.denominator)


def _keys(scores: Tensor, merger: int) -> Tensor:
    """Flags [tiles, units] on the 8 % of tokens with the highest scores [tiles, patches]."""
    units = scores.view(scores.shape[0], -1, merger).mean(-1)
    count = -(-units.shape[-1] * KEY_SHARE.numerator // KEY_SHARE.denominator)
    flags: Tensor = units.new_zeros(units.shape).bool()
    return flags.scatter(-1, units.topk(count, -1).indices, True)


@functools.lru_cache(maxsize=16)
def _windows(side: int, where: device) -> Tensor:
    """Patches of each 3x3 window, int64 [windows, 9], raster order inside."""
    import torch

    grid = torch.arange(side * side).view(side, side)
    rows = grid.unfold(0, WINDOW, WINDOW).unfold(1, WINDOW, WINDOW)
    return rows.reshape(-1, WINDOW**2).to(where)


def _likeness(patches: Tensor, windows: Tensor) -> Tensor:
    """Mean cosine similarity [tiles, windows] over the ordered pairs in each window.

    The sum over pairs is |sum of unit vectors|^2 less the 9 pairs of a token with itself.
    """
    members = unit(patches)[:, windows]
    pairs = members.sum(2).pow(2).sum(-1) - members.pow(2).sum((-1, -2))
    return pairs / (WINDOW**2 * SPARED)


def _merge(patches: Tensor, windows: Tensor, alike: Tensor, merged: int) -> Keep:
    """The `merged` most alike windows as one token each, most alike first; then all others."""
    import torch

    tiles, width = patches.shape[0], patches.shape[-1]
    chosen = alike.argsort(-1, descending=True)[:, :merged]
    members = windows[chosen]  # [tiles, merged, 9]
    means = take(patches, members.flatten(1)).view(tiles, merged, -1, width).mean(2)
    gone = torch.zeros(patches.shape[:2], device=patches.device)
    gone = gone.scatter(1, members.flatten(1), 1.0)
    others = patches.shape[1] - merged * WINDOW**2
    rest = gone.topk(others, -1, largest=False).indices.sort(-1).values
    index = torch.cat([members[..., -1], rest], 1)
    features = torch.cat([means.to(patches.dtype), take(patches, rest)], 1)
    return Keep(index, features, torch.arange(index.shape[1], device=index.device) < merged)


def _between(ranked: Tensor, count: int, keys: Tensor | None) -> float:
    """A threshold that `count` of ranked [B, n] reach: midway to the next one below; where those
    that reach it are keys, just above the others."""
    above_all = 0 if keys is None else int(keys[0].sum().item())
    falling = ranked[0].sort(descending=True).values
    if max(count, above_all) >= len(falling):
        return 0.0
    if count <= above_all:
        return float(falling[above_all].item()) * (1 + 1e-6) + 1e-12
    return (float(falling[count - 1].item()) + float(falling[count].item())) / 2
