"""The schedule of a method: where it acts, what it reads there and how many tokens remain."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from .request import Request

Query = Literal["last", "last-visual", "text", "cls", "all"]
Source = Literal["auto", "previous", "own", "next"]
Heads = Literal["mean", "each"]
Positions = Literal["keep", "compact"]


@dataclass(frozen=True)
class Tower:
    """At the output of a layer of the vision tower, tile by tile; with `inside` between its
    attention and its FFN."""

    layer: int
    inside: bool = False

    def __str__(self) -> str:
        return f"tower layer {self.layer}{' inside' if self.inside else ''}"


@dataclass(frozen=True)
class Projected:
    """Before the decoder: the visual tokens as the projector gives them, laid out, and the embedded
    text."""

    def __str__(self) -> str:
        return "before the decoder"


@dataclass(frozen=True)
class Entering:
    """Before a decoder layer: it is the first to see what remains."""

    layer: int

    def __str__(self) -> str:
        return f"entering layer {self.layer}"


@dataclass(frozen=True)
class Leaving:
    """Behind a decoder layer, which has seen every token."""

    layer: int

    def __str__(self) -> str:
        return f"leaving layer {self.layer}"


Site = Tower | Projected | Entering | Leaving
"""Where along the forward pass a method acts."""


@dataclass(frozen=True)
class Rows:
    """Attention rows that a stage reads.

    query: whose they are. Decoder: the `last` token's, the `last-visual` one's, or those of all
    `text` behind the picture. Tower: the class token's (`cls`), or the mean over `all` patches.
    of: the layer `previous` to the one entered, the site's `own` one, or the `next` one to run,
    whose queries and keys are computed ahead for it. auto: previous on entering, own elsewhere.
    heads: their mean, or each. softmax: weights; False: the scaled products before it.
    """

    query: Query
    of: Source = "auto"
    heads: Heads = "mean"
    softmax: bool = True


@dataclass(frozen=True)
class Keys:
    """The keys of all tokens, head by head, of a layer as in `Rows.of`; rotated, as attention sees
    them."""

    of: Source = "auto"


Read = Rows | Keys


@dataclass(frozen=True)
class Stage:
    """One moment at which the method acts on the visual tokens.

    tokens: what remains of them (of each tile's patches in the tower), None where only the data
    tells. reads: attention rows and keys that it wants to see. flops: the matrix products of its
    own decision, per sample (per tile in the tower), 1 MAC = 2 FLOPs, not those of what is read;
    published_flops: those of the released code, where they are others. launches: operators that it
    calls in float32, views aside; None where that is not said. part: which method of a composition
    acts.
    """

    site: Site
    tokens: int | None
    reads: Read | tuple[Read, ...] = ()
    flops: int = 0
    published_flops: int | None = None
    launches: int | None = None
    part: int = 0

    @property
    def layer(self) -> int:
        """The layer of the site; -1 before the decoder."""
        return -1 if isinstance(self.site, Projected) else self.site.layer

    @property
    def count(self) -> int:
        """`tokens` of a stage that plans them."""
        if self.tokens is None:
            raise RuntimeError(f"the plan leaves it to the data what remains {self.site}")
        return self.tokens

    @property
    def rows(self) -> Rows | None:
        return self._read(Rows)

    @property
    def keys(self) -> Keys | None:
        return self._read(Keys)

    @property
    def in_decoder(self) -> bool:
        return isinstance(self.site, (Entering, Leaving))

    @property
    def source(self) -> Source:
        """Whose rows and keys it reads, `auto` resolved."""
        for read in self.read_list:
            if read.of != "auto":
                return read.of
        return "previous" if isinstance(self.site, Entering) else "own"

    @property
    def read_list(self) -> tuple[Read, ...]:
        return self.reads if isinstance(self.reads, tuple) else (self.reads,)

    @property
    def read_layer(self) -> int:
        """The layer whose rows and keys it reads, if it reads any."""
        if isinstance(self.site, Entering):
            return self.layer - (self.source == "previous")
        return self.layer + (self.source == "next")

    @property
    def ahead(self) -> bool:
        """Whether it reads of a decoder layer that has not run yet."""
        return bool(self.read_list) and self.source == "next"

    @property
    def first_layer_after(self) -> int:
        """The first decoder layer that sees what remains."""
        return self.layer + 1 if isinstance(self.site, Leaving) else max(self.layer, 0)

    @property
    def order(self) -> tuple[int, int, int]:
        """Its place along the forward pass."""
        site = self.site
        if isinstance(site, Tower):
            return 0, site.layer, int(not site.inside)
        if isinstance(site, Projected):
            return 1, 0, 0
        return 2, site.layer, int(isinstance(site, Leaving))

    def _read(self, kind: type[AnyRead]) -> AnyRead | None:
        return next((read for read in self.read_list if isinstance(read, kind)), None)


AnyRead = TypeVar("AnyRead", Rows, Keys)


@dataclass(frozen=True)
class Published:
    """What the released code runs instead of an efficient kernel.

    `maps`: decoder layers that build a full attention map in prefill; `host_mask`: the mask of
    each such map is built on the host and copied; `decode`: the maps go on during decode.
    `tower_maps`: layers of the vision tower that build one.
    """

    maps: range = range(0)
    host_mask: bool = False
    decode: bool = False
    tower_maps: range = range(0)


@dataclass(frozen=True)
class Plan:
    """All that the engine and the cost model need to know of a method before it runs.

    stages: along the forward pass. positions: whether visual tokens keep theirs when others go, or
    are numbered anew. compressed: the layers whose KV caches shrink, after prefill, to the visual
    tokens that survived the last stage. proportional: attention in the tower weighs a merged
    token by its size. note: where the plan cannot do what its knobs ask.
    """

    stages: Sequence[Stage] = ()
    positions: Positions = "keep"
    compressed: range = range(0)
    published: Published | None = None
    proportional: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.stages, list):  # a list reads as well; what is hashed is a tuple
            object.__setattr__(self, "stages", tuple(self.stages))

    @functools.cached_property  # asked for at every layer of a request
    def tower(self) -> tuple[Stage, ...]:
        """The stages in the vision tower."""
        return tuple(stage for stage in self.stages if isinstance(stage.site, Tower))

    @functools.cached_property
    def projected(self) -> tuple[Stage, ...]:
        """The stages before the decoder."""
        return tuple(stage for stage in self.stages if isinstance(stage.site, Projected))

    @functools.cached_property
    def decoder(self) -> tuple[Stage, ...]:
        """The stages in the decoder."""
        return tuple(stage for stage in self.stages if stage.in_decoder)

    @functools.cached_property
    def readers(self) -> dict[int, Stage]:
        """By decoder layer, the stage that reads rows or keys of it as it runs."""
        return {s.read_layer: s for s in self.decoder if s.reads and not s.ahead}

    @functools.cached_property
    def tower_readers(self) -> dict[int, Stage]:
        """By layer of the vision tower, the stage that reads rows or keys of it."""
        return {s.layer: s for s in self.tower if s.reads}

    def projector_tokens(self, request: Request) -> int | None:
        """What the tower leaves of a tile's patches; None if only the data tells, 0 without one."""
        left: int | None = request.encoder.patches if request.encoder else 0
        for stage in self.tower:
            left = stage.tokens
        return left

    def entering(self, request: Request) -> int | None:
        """Visual tokens that enter the decoder; None if only the data tells."""
        count: int | None = request.visual
        encoder, left = request.encoder, self.projector_tokens(request)
        if encoder is not None and left != encoder.patches:
            count = None if left is None else left * encoder.tiles
        for stage in self.projected:
            count = stage.tokens
        return count

    def visual_per_layer(self, request: Request) -> list[int]:
        """Visual tokens entering each decoder layer; raises if only the data tells."""
        return [self._after(request, layer, leaving=False) for layer in range(request.layers)]

    def visual_leaving(self, request: Request) -> list[int]:
        """Visual tokens after each decoder layer: how SparseVLM and MustDrop count a budget."""
        return [self._after(request, layer, leaving=True) for layer in range(request.layers)]

    def visual_cached(self, request: Request) -> list[int]:
        """Visual tokens in each layer's KV cache when decode begins."""
        entering = self.visual_per_layer(request)
        last = self._after(request, request.layers - 1, leaving=True)
        return [
            last if layer in self.compressed else entering[layer] for layer in range(request.layers)
        ]

    @property
    def planned(self) -> bool:
        """Whether every count is known before the data is seen."""
        return all(stage.tokens is not None for stage in self.stages)

    def _after(self, request: Request, layer: int, *, leaving: bool) -> int:
        count = self.entering(request)
        for stage in self.decoder:
            if stage.first_layer_after <= layer or (leaving and stage.site == Leaving(layer)):
                count = stage.tokens
        if count is None or not self.planned:
            raise ValueError("this schedule depends on the data: run it to learn its counts")
        return count
