"""Model shapes: the numbers that FLOPs, KV bytes and parameters follow from. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...methods.contract.errors import InputError

if TYPE_CHECKING:
    from .architecture import Architecture


class ShapeError(InputError):
    """A picture that a model of this shape does not take."""


@dataclass(frozen=True)
class Text:
    """The decoder: layers of width `hidden`, gated FFN of width `intermediate`, grouped heads.

    tied: the head shares the weights of the embedding. head_size: width of a head, where it is not
    hidden / heads. *_bias: of the products of attention, of its output, and of the FFN. norms:
    vectors of width `hidden` that a layer's norms hold. qk_norm: weights of the norms of queries
    and keys in a layer. positions: the most that the model is made for.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    qkv_bias: bool = False
    tied: bool = False
    head_size: int | None = None
    output_bias: bool = False
    ffn_bias: bool = False
    norms: int = 2
    qk_norm: int = 0
    positions: int = 4096

    @property
    def head_dim(self) -> int:
        return self.head_size or self.hidden // self.heads

    @property
    def attention_width(self) -> int:
        """Width of the queries of all heads together, and of what attention gives."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of the keys, and of the values, of all their heads together."""
        return self.kv_heads * self.head_dim

    @property
    def layer_parameters(self) -> int:
        """Weights of one layer."""
        queries, kv, inner = self.attention_width, self.kv_width, self.intermediate
        products = 2 * self.hidden * (queries + kv) + 3 * self.hidden * inner
        biases = (
            self.qkv_bias * (queries + 2 * kv)
            + self.output_bias * self.hidden
            + self.ffn_bias * (2 * inner + self.hidden)
        )
        return products + biases + self.norms * self.hidden + self.qk_norm

    @property
    def parameters(self) -> int:
        """Weights of embedding, layers, norms and head."""
        embeddings = (1 if self.tied else 2) * self.vocabulary * self.hidden
        return self.layers * self.layer_parameters + self.hidden + embeddings


@dataclass(frozen=True)
class Vision:
    """The vision tower: `layers` of width `hidden` over `patch` x `patch` pixels.

    image: side in pixels of a tile; 0 where a picture keeps its own size.
    merge: side of the square of patches that are joined into one visual token.
    temporal: frames that one patch spans.
    feature_layers: whose outputs stand side by side in what the projector is given, as
    transformers counts (0 the patch embedding, -1 the last layer).
    least_pixels, most_pixels: the area to which pictures of dynamic resolution are resized.
    video_pixels: least and most to which a frame is, or a video as a whole (Qwen3-VL).
    frame_step: positions from one patch of a video to the next in time (M-RoPE).
    class_token: whether one stands before the patches.
    joined: queries, keys and values come from one product. rotary: their positions are rotary.
    positions: learned ones, stretched over a picture of any size; 0 without.
    deepstack: the layers whose merged outputs are added behind the decoder's first layers.
    window: side in pixels of the windows in which all layers but `whole_layers` attend; 0 without.
    gated: the FFN has three products. inner_states: of the FFN's width that are held at once: three
    where its activation is quick_gelu, or gated; two where it is one operator.
    norm_vectors: vectors of width `hidden` that one norm holds.
    patch_bias: of the patch embedding. qkv_bias: of queries, keys and values. scaled: each half of
    a layer ends in a product by a vector. wide_softmax: transformers takes a map's in float32.
    layer_weights: what a layer holds beside all these.
    beside: weights of the tower outside its layers: class token, its positions, norms.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    patch: int = 14
    image: int = 336
    merge: int = 1
    temporal: int = 1
    feature_layers: tuple[int, ...] = (-2,)
    least_pixels: int = 0
    most_pixels: int = 0
    video_pixels: tuple[int, int] = (0, 0)
    frame_step: int = 1
    class_token: bool = True
    joined: bool = False
    rotary: bool = False
    gated: bool = False
    inner_states: int = 3
    norm_vectors: int = 2
    patch_bias: bool = False
    qkv_bias: bool = True
    scaled: bool = False
    wide_softmax: bool = True
    layer_weights: int = 0
    beside: int = 0
    window: int = 0
    whole_layers: tuple[int, ...] = ()
    positions: int = 0
    deepstack: tuple[int, ...] = ()

    @property
    def windowed(self) -> tuple[int, ...]:
        """The layers that attend in windows."""
        if not self.window:
            return ()
        return tuple(n for n in range(self.layers) if n not in self.whole_layers)

    @property
    def first_feature(self) -> int:
        """The first layer whose output the projector is given; -1 for the patch embedding."""
        return min(layer % (self.layers + 1) for layer in self.feature_layers) - 1

    @property
    def side(self) -> int:
        """Patches along one side of a tile."""
        return self.image // self.patch

    @property
    def dynamic(self) -> bool:
        """Whether pictures keep their own size, and attend one by one."""
        return self.image == 0

    @property
    def unit(self) -> int:
        """Pixels along one side of a visual token."""
        return self.patch * self.merge

    @property
    def patch_weights(self) -> int:
        """Weights, and MACs per patch, of the patch embedding."""
        return 3 * self.temporal * self.patch**2 * self.hidden

    @property
    def parameters(self) -> int:
        """Weights of patch embedding, layers and what stands beside them."""
        width, inner = self.hidden, self.intermediate
        attention = 4 * width * width + (3 * self.qkv_bias + 1) * width
        ffn = (3 if self.gated else 2) * width * inner + (2 if self.gated else 1) * inner + width
        vectors = 2 * self.norm_vectors + 2 * self.scaled
        layer = attention + ffn + vectors * width + self.layer_weights
        patched = self.patch_weights + self.patch_bias * width
        return self.layers * layer + patched + self.beside + self.positions * width


@dataclass(frozen=True)
class Projector:
    """What turns features of the tower into visual tokens: two products, `inputs` to `inner` to
    `outputs`, the width of the decoder.

    bias: of both products. normed: width of what a norm before them is given, 0 without one.
    norm_vectors: vectors of that norm. newline: whether a weight stands for the end of a row.
    """

    inputs: int
    inner: int
    outputs: int
    bias: bool = True
    normed: int = 0
    norm_vectors: int = 2
    newline: bool = False

    @property
    def parameters(self) -> int:
        """Weights of products, norm and newline."""
        biases = self.bias * (self.inner + self.outputs)
        products = self.inputs * self.inner + self.inner * self.outputs
        return products + biases + self.norm_vectors * self.normed + self.newline * self.outputs


@dataclass(frozen=True)
class Shape:
    """A model in numbers. pinpoints: sizes in pixels to which an architecture that cuts pictures
    into tiles may resize one. most_tiles: as many tokens as so many tiles have patches are made of
    more of them; 0: of every patch one. deep_projector: of each of the tower's `deepstack` layers.
    """

    name: str
    architecture: Architecture
    text: Text
    vision: Vision
    projector: Projector
    pinpoints: tuple[tuple[int, int], ...] = ()
    most_tiles: int = 0
    about: str = ""
    deep_projector: Projector | None = None

    @property
    def projectors(self) -> tuple[Projector, ...]:
        """The projector, and those of the tower's `deepstack` layers."""
        deep = (self.deep_projector,) * len(self.vision.deepstack) if self.deep_projector else ()
        return (self.projector, *deep)

    def share(self, ranks: int, *, words: bool = False) -> Shape:
        """What one of `ranks` has and computes of it under tensor parallelism: equal shares of
        heads and FFN, the rest whole. words: whether embedding and head are spread too.

        Raises ShapeError where the shares cannot be equal."""
        text = self.text
        for what, count in (
            ("heads of queries", text.heads),
            ("heads of keys and values", text.kv_heads),
            ("features of the FFN", text.intermediate),
            ("words", text.vocabulary),
        ):
            if count % ranks:
                raise ShapeError(
                    f"{self.name} has {count:,} {what}, which {ranks} ranks cannot share evenly"
                )
        own = replace(
            text,
            heads=text.heads // ranks,
            kv_heads=text.kv_heads // ranks,
            intermediate=text.intermediate // ranks,
            head_size=text.head_dim,
            vocabulary=text.vocabulary // ranks if words else text.vocabulary,
        )
        return replace(self, text=own)

    @property
    def parameters(self) -> int:
        """All weights of the model."""
        projectors = sum(projector.parameters for projector in self.projectors)
        return self.text.parameters + self.vision.parameters + projectors
