"""The schedule of a method: where it acts, what it reads there and how many tokens remain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .request import Budget, Request

Moment = Literal["entering", "leaving"]
Rows = Literal["last", "last-visual", "text"]
EncoderRows = Literal["cls", "all"]
Positions = Literal["keep", "compact"]


@dataclass(frozen=True)
class Stage:
    """One moment at which the method acts on the visual tokens of the decoder.

    `visual` is the count that remains, None where only the data tells. `rows` names the attention
    rows that the method reads: of the layer before when `entering`, of the layer itself when
    `leaving`. `flops` counts the matrix products of the method's own decision, per sample
    (1 MAC = 2 FLOPs), not those of the attention rows; `published_flops`, where given, those of
    the released code.
    """

    layer: int
    moment: Moment
    visual: int | None
    rows: Rows | None = None
    flops: int = 0
    published_flops: int | None = None

    @property
    def scored_layer(self) -> int:
        return self.layer - 1 if self.moment == "entering" else self.layer

    @property
    def first_layer_after(self) -> int:
        """The first decoder layer that sees what remains."""
        return self.layer if self.moment == "entering" else self.layer + 1


@dataclass(frozen=True)
class EncoderStage:
    """One moment at which the method acts on the output of a layer of the vision tower.

    `tokens` is what remains of each tile's patches, None where only the data tells.
    """

    layer: int
    tokens: int | None
    rows: EncoderRows | None = None
    flops: int = 0


@dataclass(frozen=True)
class Published:
    """What the released code runs instead of an efficient kernel.

    `maps`: decoder layers that build a full attention map in prefill; `host_mask`: the mask of
    each such map is built on the host and copied; `decode`: the maps go on during decode.
    """

    maps: range = range(0)
    host_mask: bool = False
    decode: bool = False


@dataclass(frozen=True)
class Plan:
    """All that the engine and the cost model need to know of a method before it runs.

    `visual` counts the visual tokens that enter decoder layer 0. `compressed` names the layers
    whose KV caches shrink, after prefill, to the visual tokens that survived the last stage.
    `note` says where the plan cannot do what its knobs ask.
    """

    visual: int | None
    stages: tuple[Stage, ...] = ()
    encoder_stages: tuple[EncoderStage, ...] = ()
    positions: Positions = "keep"
    compressed: range = range(0)
    published: Published | None = None
    note: str = ""

    def visual_per_layer(self, layers: int) -> list[int]:
        """Visual tokens entering each decoder layer; raises if only the data tells."""
        return [self._after(layer, inclusive=False) for layer in range(layers)]

    def visual_leaving(self, layers: int) -> list[int]:
        """Visual tokens after each decoder layer: how SparseVLM and MustDrop count a budget."""
        return [self._after(layer, inclusive=True) for layer in range(layers)]

    def visual_cached(self, layers: int) -> list[int]:
        """Visual tokens in each layer's KV cache when decode begins."""
        entering = self.visual_per_layer(layers)
        last = self._after(layers - 1, inclusive=True)
        return [last if layer in self.compressed else entering[layer] for layer in range(layers)]

    @property
    def planned(self) -> bool:
        """Whether every count is known before the data is seen."""
        return all(stage.visual is not None for stage in self.stages) and all(
            stage.tokens is not None for stage in self.encoder_stages
        )

    def _after(self, layer: int, *, inclusive: bool) -> int:
        count = self.visual
        for stage in self.stages:
            first = stage.first_layer_after
            if first <= layer or (inclusive and first == layer + 1 and stage.moment == "leaving"):
                count = stage.visual
        if count is None or not self.planned:
            raise ValueError("this schedule depends on the data: run it to learn its counts")
        return count


def single_prune(
    request: Request, keep: Budget, layer: int | None, rows: Rows | None, flops: int = 0
) -> Plan:
    """FastV's schedule: `keep` visual tokens stay on entering one layer, published as layer 2."""
    where = request.layer(layer, published=2)
    stage = Stage(where, "entering", request.budget(keep), rows, flops)
    return Plan(request.visual, (stage,))
