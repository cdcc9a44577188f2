"""VisionZip: the tokens that the vision tower attends to, and the rest merged into a few."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from . import (
    Budget,
    BudgetError,
    Keep,
    Keys,
    Method,
    Plan,
    Published,
    Request,
    Rows,
    Segment,
    Stage,
    Tower,
    View,
    in_parts,
    knob,
    register,
    scored_in_tower,
    shares,
    sums_of_nearest,
    take,
    unit,
    units,
)

if TYPE_CHECKING:
    from torch import Tensor


@register("visionzip")
@dataclass(frozen=True)
class VisionZip(Method):
    """Keep the tokens that the tower's class token attends to most; merge the others by their keys.

    Dominant tokens are the class token itself and the patches that it attends to most. Of the
    others, every so many-th is a target, and each remaining one is merged into the target with the
    most similar key: a contextual token is its target plus the mean of what it was given. All
    tiles keep equally many, and the projector sees what is kept alone.

    Paper: https://arxiv.org/abs/2412.04467
    Code: dvlab-research/VisionZip

    Departures:
    - Published are 54 dominant and 10 contextual tokens of 64, and so in proportion; other budgets
      round to the nearest contextual count, the rest are dominant.
    - A budget that the tiles cannot share equally is rounded down.
    - The tower's layers behind the one that feeds the projector run on what is kept; in the
      released code, which drops behind the tower, on all tokens.
    - Under anyres it acts behind the projector: the joined tiles are one part beside the base tile,
      newlines go first, and the class token, which is not projected, is none of the dominant ones;
      the released code works tile by tile in the tower, drops all newlines and leaves the padding
      in.
    - Without a class token the score is what all patches attend to a patch on average, and tokens
      are merged behind the model's own merger: a token's score and key are the means of its
      patches', and a contextual token has its target's position.
    - Scores, keys and means are float32, in half precision in the released code: ties fall
      otherwise.
    """

    keep: Budget = knob(Fraction(1, 9), "visual tokens that stay, merged ones included")
    contextual: Fraction = knob(
        Fraction(5, 32), "share of `keep` that are merged tokens", least=0, most=1
    )

    def plan(self, request: Request) -> Plan:
        tower, budget = request.tower, request.budget(self.keep)
        if budget == request.visual:
            return Plan()
        reads = (Rows(tower.query), Keys())
        site, released = Tower(tower.feature_layer), Published(tower_maps=range(tower.layers))
        key_width = tower.width // tower.heads
        if not tower.prunes_by_cls:
            flops = sum(
                self._flops(part.patches, count, 0, key_width + request.hidden)
                for part, count in zip(request.segments, shares(request, budget), strict=True)
            )
            return scored_in_tower(request, budget, Keys(), flops=flops)
        count = budget // tower.tiles
        if not count:
            raise BudgetError(
                f"keep={self.keep} means {budget} visual tokens, and each of {tower.tiles} tiles "
                "keeps one at least"
            )
        flops = self._flops(tower.patches, count, 1, key_width + tower.width)
        note = ""
        if budget % tower.tiles:
            note = f"its {tower.tiles} tiles keep {count} tokens each: {count * tower.tiles} in all"
        return Plan([Stage(site, count, reads, flops)], published=released, note=note)

    def decide(self, view: View, stage: Stage) -> Keep | None:
        request = view.request
        if not stage.rows:
            attention, keys = view.tag("attention"), view.tag("keys")
            counts = shares(request, request.budget(self.keep))
            return in_parts(request.segments, counts, self._zip, attention, keys, view.states)
        attention, keys = view.rows[:, 0], view.keys.float().mean(1)
        if stage.tokens != view.count:
            tile = Segment(1, view.count)
            return self._zip(tile, stage.tokens or 0, attention, keys, view.states, view.cls)
        view.set_tag("attention", units(attention, request), newline=float("-inf"))
        view.set_tag("keys", units(keys, request))
        return None

    def _split(self, patches: int, count: int, own: int) -> tuple[int, int]:
        """Of `count` tokens to keep, `own` of them class tokens, the dominant patches and the
        contextual tokens; only as many patches are there."""
        merged = min(round(count * self.contextual), count - 1) if 0 < count < patches else 0
        return count - own - merged, merged

    def _flops(self, patches: int, count: int, own: int, width: int) -> int:
        """Matrix products of a part: similarities of keys, and sums of states; `width` of both."""
        dominant, merged = self._split(patches, count, own)
        return 2 * (patches - dominant - merged) * merged * width

    def _zip(
        self,
        part: Segment,
        count: int,
        attention: Tensor,
        keys: Tensor,
        states: Tensor,
        own: Tensor | None = None,
    ) -> Keep:
        """`count` of the tokens of a part: the class token `own` [N, 1, d] if there is one, the
        dominant ones in their order, and the contextual ones."""
        import torch

        dominant, merged = self._split(part.patches, count, int(own is not None))
        ranked = attention.argsort(-1, descending=True)
        stay = ranked[:, :dominant].sort(-1).values
        index, features = [stay], [take(states, stay)]
        if own is not None:
            index, features = [torch.zeros_like(ranked[:, :1]), *index], [own, *features]
        if merged:
            rest = ranked[:, dominant : part.patches].sort(-1).values
            target, given = _targets(rest, merged)
            index.append(target)
            features.append(_contextual(states, keys, target, given))
        places = torch.arange(count, device=stay.device)
        joined = (places < count - merged - dominant) | (places >= count - merged)
        return Keep(torch.cat(index, 1), torch.cat(features, 1), joined)


def _targets(rest: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`count` of places rest [N, R] at even steps, and the others."""
    import torch

    step = rest.shape[1] // count
    blocks = rest[:, : count * step].view(len(rest), count, step)
    others = torch.cat([blocks[..., 1:].flatten(1), rest[:, count * step :]], 1)
    return blocks[..., 0], others


def _contextual(states: Tensor, keys: Tensor, target: Tensor, given: Tensor) -> Tensor:
    """Targets [N, c], each plus the mean of those `given` [N, m] whose keys resemble its own most:
    [N, c, d]."""
    likeness = unit(take(keys, given)) @ unit(take(keys, target)).transpose(1, 2)
    sums, counts = sums_of_nearest(likeness, take(states, given))
    means = sums / counts.clamp_min(1)[..., None]
    return (take(states, target) + means).to(states.dtype)
