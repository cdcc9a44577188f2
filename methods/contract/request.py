"""What a method may know of a request before it runs: lengths, grid and depth. No tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from .errors import InputError

Budget = int | Fraction
"""Visual tokens to keep: a count (320), or a share of the visual tokens (1/9)."""

Size = tuple[int, int]
"""Height and width of a picture, in pixels."""

PUBLISHED_LAYERS = 32  # the depth that the published layer positions were chosen for
UNSCALED_FROM = 24  # from this depth up they are used as they stand


class BudgetError(InputError):
    """A budget that the request at hand cannot meet."""


class UnsupportedError(InputError):
    """A method that cannot work on this model, layout or attention backend, whatever its knobs."""


@dataclass(frozen=True)
class Segment:
    """A rectangle of visual tokens in raster order: one tile, one dynamic-resolution image, or one
    frame. newline: its last column are newlines that end its rows. frame: it is one of a video."""

    height: int
    width: int
    newline: bool = False
    frame: bool = False

    @property
    def tokens(self) -> int:
        return self.height * self.width

    @property
    def patches(self) -> int:
        """Its tokens without the newlines."""
        return self.tokens - self.height * self.newline


@dataclass(frozen=True)
class VisualSpan:
    """Visual tokens with no text between them: a picture, a video, or a frame of one. before: the
    text tokens before it."""

    before: int
    segments: tuple[Segment, ...]

    @property
    def tokens(self) -> int:
        return sum(segment.tokens for segment in self.segments)


@dataclass(frozen=True)
class Encoder:
    """The vision tower as a method sees it.

    `tiles` and `patches` are counted per sample and per tile (without a class token);
    `has_cls`: a class token stands before the patches; `mergeable`: tokens may be merged or
    dropped inside the tower, because what follows needs no grid; `last_layer`: the last layer at
    which they may be, for what follows is given its output (None: any; -1: none); `heads`: of its
    attention; `crops`: rows and columns of the tiles that follow a base tile, (0, 0) without one;
    `resampled`: visual tokens to which the patches of these tiles, or of all, are interpolated, so
    that none is one patch, 0 where each is;
    `square`: side of the square of patches that the model joins to a visual token, where patches
    stand by the rows of their tile, 0 where those of a token stand together;
    `held_by`: what needs the grid of tokens that are not mergeable.

    sequences: lengths of what attends to itself inside a tile, where pictures of several sizes
    make up one; () for the whole tile. windows: the same in the layers `windowed`, whose attention
    is windowed.
    """

    tiles: int
    patches: int
    layers: int
    width: int
    has_cls: bool = True
    mergeable: bool = True
    last_layer: int | None = None
    heads: int = 1
    crops: tuple[int, int] = (0, 0)
    sequences: tuple[int, ...] = ()
    windows: tuple[int, ...] = ()
    windowed: tuple[int, ...] = ()
    resampled: int = 0
    square: int = 0
    held_by: str = "its merger joins neighbours on their grid"

    @property
    def side(self) -> int:
        """Patches along one side of a square tile."""
        return int(self.patches**0.5)

    def lengths(self, layer: int) -> tuple[int, ...]:
        """Lengths of what attends to itself inside a tile at a layer; () for the whole tile."""
        return self.windows if layer in self.windowed else self.sequences

    @property
    def query(self) -> Literal["cls", "all"]:
        """Whose attention tells what matters: the class token's, or that of all patches."""
        return "cls" if self.has_cls else "all"

    @property
    def prunes_by_cls(self) -> bool:
        """Whether patches can go inside it by what its class token attends to."""
        return self.has_cls and self.mergeable

    @property
    def feature_layer(self) -> int:
        """The layer whose output the projector is given; of several, the first."""
        return self.layers - 1 if self.last_layer is None else self.last_layer


@dataclass(frozen=True)
class Request:
    """The lengths of one request, per sample, in tokens: `before` | `visual` | `after`.

    Of several pictures, or frames with text between them, `segments` are those of all; `breaks`
    says where another begins: the number of its first segment, and the text tokens before it.
    merger: patches that the model itself joins into one visual token (TACR in the paper).
    left: the visual tokens that an earlier method of a composition has left; None before any.
    whole: the visual tokens of the picture before a method made it smaller; None where none did.
    heads, kv_heads, head_dim: of the decoder's attention. compactable: whether positions can be
    numbered anew; not those of M-RoPE.
    """

    layers: int
    hidden: int
    before: int
    after: int
    segments: tuple[Segment, ...]
    encoder: Encoder | None = None
    merger: int = 1
    batch: int = 1
    new_tokens: int = 2
    left: int | None = None
    whole: int | None = None
    heads: int = 1
    kv_heads: int = 1
    head_dim: int = 1
    compactable: bool = True
    breaks: tuple[tuple[int, int], ...] = ()

    @property
    def spans(self) -> tuple[VisualSpan, ...]:
        """The pictures of the prompt, or what text parts, one behind another."""
        starts = [(0, self.before), *self.breaks]
        ends = [*(first for first, _ in self.breaks), len(self.segments)]
        return tuple(
            VisualSpan(text, self.segments[first:end])
            for (first, text), end in zip(starts, ends, strict=True)
        )

    @property
    def text(self) -> int:
        """Text tokens, wherever they stand."""
        return self.before + sum(text for _, text in self.breaks) + self.after

    @property
    def frames(self) -> int:
        """Segments of a video, one for each frame, or for those that the model joins into one (two
        in Qwen's); 0 without a video."""
        return sum(segment.frame for segment in self.segments)

    @property
    def visual(self) -> int:
        """Visual tokens that there are to prune."""
        if self.left is not None:
            return self.left
        return sum(segment.tokens for segment in self.segments)

    @property
    def grid(self) -> tuple[Segment, ...]:
        """The segments, where every token of them is there; raises UnsupportedError otherwise."""
        if self.left is not None:
            raise UnsupportedError("it needs every token of the picture, and comes behind another")
        return self.segments

    @property
    def tower(self) -> Encoder:
        """The vision tower; raises UnsupportedError where the request has none."""
        if self.encoder is None:
            raise UnsupportedError(
                "it decides in the vision tower, and these visual tokens are synthetic: give a "
                "picture (--image, --image-size) instead of --visual-tokens"
            )
        if self.encoder.feature_layer < 0:
            raise UnsupportedError(
                "it decides in the vision tower, and the projector is given the patch embedding "
                "itself (vision_feature_layer)"
            )
        if self.encoder.sequences:
            raise UnsupportedError(
                "it decides in the vision tower, and the pictures there are of several sizes: "
                "give pictures of one size"
            )
        return self.encoder

    @property
    def tower_of_tokens(self) -> Encoder:
        """The vision tower, where its patches are the visual tokens, or parts of them; raises
        UnsupportedError as `tower`, and where they are interpolated to others."""
        if self.encoder is not None and self.encoder.resampled:
            raise UnsupportedError(
                "it marks patches of the vision tower, and of such pictures this model "
                "interpolates them to visual tokens, of which none is one patch"
            )
        return self.tower

    @property
    def length(self) -> int:
        return self.text + self.visual

    def budget(self, keep: Budget, of: int | None = None) -> int:
        """Visual tokens that `keep` stands for here; raises BudgetError if it cannot be met. of:
        how many it is a share of; None for those of the request."""
        most = self.visual if of is None else of
        count = keep if isinstance(keep, int) else round(most * keep)
        if not 1 <= count <= most:
            there = "this request has" if self.left is None else "those before it leave"
            raise BudgetError(
                f"keep={keep} means {count} visual tokens, but {there} {most}: "
                f"give a count from 1 to {most} or a share up to 100%"
            )
        return count

    def scale(self, published: Sequence[int]) -> tuple[int, ...]:
        """Layer positions published for 32 layers, as they apply at this depth.

        From 24 layers up they stand; below they shrink in proportion, stay distinct and leave at
        least layer 0 whole.
        """
        if self.layers >= UNSCALED_FROM:
            return tuple(published)
        scaled: list[int] = []
        for position in published:
            proportional = round(position * self.layers / PUBLISHED_LAYERS)
            scaled.append(max(1, proportional, scaled[-1] + 1 if scaled else 1))
        if scaled[-1] >= self.layers:
            raise BudgetError(
                f"{self.layers} decoder layers are too few for {len(scaled)} pruning stages"
            )
        return tuple(scaled)

    def layer(self, chosen: int | None, published: int) -> int:
        """The layer that the user chose, checked, or else the published one at this depth."""
        if chosen is None:
            return self.scale((published,))[0]
        if not 1 <= chosen < self.layers:
            raise BudgetError(
                f"layer={chosen} does not exist here: choose from 1 to {self.layers - 1}"
            )
        return chosen
