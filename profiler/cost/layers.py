"""Work of one layer: of the decoder, of the vision tower, and of what stands around them.

Sizes: t tokens (batch included), q queries and k keys a sample, d = hidden width, H heads, a = H *
head_dim, kv = kv_heads * head_dim, m = FFN width. A product counts as `matmul` says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ...methods.contract.request import Encoder
from ..models.shapes import Projector, Shape, Text, Vision
from .work import Operators, Work, elementwise, matmul


def decoder_layer(
    text: Text, batch: int, queries: int, keys: int, itemsize: int, *, full_map: bool = False
) -> Operators:
    """One decoder layer over `queries` tokens a sample, which attend to `keys` tokens.

    projections: q, k, v and o, 2td(2a + 2kv) FLOPs. attention: 4 * batch * qka FLOPs dense; causal
    q * k - q(q - 1)/2 pairs in place of q * k. With `full_map` it is called `attention map`: dense,
    and the map [batch, H, q, k] is written and read for the softmax and for the values. ffn: three
    products, 6tdm. elementwise: norms, rotary embedding, activation, two residual sums.
    """
    width, inner = text.hidden, text.intermediate
    queries_width, kv = text.attention_width, text.kv_width
    tokens = batch * queries

    def linear(wide: int, narrow: int, *, bias: bool = False) -> Work:
        return matmul(tokens, wide, narrow, itemsize, bias=bias)

    keys_values = linear(width, kv, bias=text.qkv_bias).times(2)
    name = "attention map" if full_map else "attention"
    pairs = queries * keys if full_map else queries * keys - queries * (queries - 1) // 2
    return {
        "projections": linear(width, queries_width, bias=text.qkv_bias)
        + keys_values
        + linear(queries_width, width, bias=text.output_bias),
        name: _attention(
            batch,
            text.heads,
            queries_width,
            kv,
            queries,
            keys,
            pairs,
            itemsize,
            full_map=full_map,
        ),
        "ffn": linear(width, inner, bias=text.ffn_bias).times(2)
        + linear(inner, width, bias=text.ffn_bias),
        "elementwise": elementwise(
            tokens * (5 * width + queries_width + kv + 2 * inner)
            + text.norms * width
            + text.qk_norm,
            tokens * (4 * width + queries_width + kv + inner),
            itemsize,
            launches=5,
        ),
    }


def attention_rows(
    batch: int, heads: int, width: int, kv: int, rows: int, keys: int, itemsize: int
) -> Work:
    """Attention rows computed beside the kernel: 2 * batch * rows * keys * d FLOPs.

    Reads the queries of the rows and all keys; writes and reads the scores once for the softmax.
    """
    flops = 2 * batch * rows * keys * width
    scores = batch * heads * rows * keys
    read = batch * (rows * width + keys * kv) + scores
    return Work(flops, flops, read * itemsize, scores * itemsize, 2)


def ahead(text: Text, batch: int, tokens: int, rows: int, keys: int, itemsize: int) -> Work:
    """Queries, keys and values of all tokens of a layer that has not run yet, 2td(a + 2kv) FLOPs,
    and attention rows over them."""
    whole = tokens * batch
    projected = matmul(whole, text.hidden, text.attention_width, itemsize, bias=text.qkv_bias)
    kv = matmul(whole, text.hidden, text.kv_width, itemsize, bias=text.qkv_bias).times(2)
    read = attention_rows(
        batch, text.heads, text.attention_width, text.kv_width, rows, keys, itemsize
    )
    return projected + kv + (read if rows else Work())


def head(text: Text, batch: int, itemsize: int) -> Operators:
    """Final norm, LM head and greedy choice of one token a sample."""
    wide, words = batch * text.hidden, batch * text.vocabulary
    return {
        "head": matmul(batch, text.hidden, text.vocabulary, itemsize),
        "elementwise": elementwise(wide + text.hidden + words, wide, itemsize, launches=2),
    }


def embedding(text: Text, batch: int, tokens: int, itemsize: int) -> Work:
    """The sequence put together from text embeddings and visual features."""
    states = batch * tokens * text.hidden
    return elementwise(states, states, itemsize)


def patch_embedding(vision: Vision, patches: int, itemsize: int) -> Work:
    """The convolution that turns `patches` patches (all tiles) into tokens."""
    pixels = vision.patch_weights // vision.hidden
    return matmul(patches, pixels, vision.hidden, itemsize, bias=vision.patch_bias)


def learned_positions(vision: Vision, patches: int, itemsize: int) -> Work:
    """Learned positions added to `patches` patches (all tiles), each the weighted sum of four."""
    if not vision.positions:
        return Work()
    states = patches * vision.hidden
    return elementwise(5 * states, states, itemsize, launches=2)


def added_features(text: Text, batch: int, visual: int, itemsize: int) -> Work:
    """What a layer of the tower has for the visual tokens, added behind a decoder layer."""
    states = batch * visual * text.hidden
    return elementwise(2 * states, states, itemsize)


def tower_layer(
    shape: Shape,
    tiles: int,
    tokens: int,
    inside: int,
    itemsize: int,
    *,
    full_map: bool = False,
    lengths: tuple[int, ...] = (),
) -> Operators:
    """One layer of the vision tower over `tokens` tokens in each of `tiles` tiles, of which
    `inside` go on to its FFN.

    lengths: of what attends to itself inside a tile; () for the whole tile. As `decoder_layer`, but
    attention is not causal, products have biases, and the FFN has two products if not gated.
    """
    vision = shape.vision
    width, inner, all_ = vision.hidden, vision.intermediate, tiles * tokens

    def linear(wide: int, narrow: int, rows: int = all_, *, bias: bool = True) -> Work:
        return matmul(rows, wide, narrow, itemsize, bias=bias)

    separate = linear(width, width, bias=vision.qkv_bias).times(3)
    query_key_value = linear(width, 3 * width) if vision.joined else separate
    name = "attention map" if full_map else "attention"
    narrow, wide = linear(width, inner, tiles * inside), linear(inner, width, tiles * inside)
    more = 2 * width * all_ * (vision.rotary + vision.scaled)
    vectors = 2 * vision.norm_vectors + 2 * vision.scaled
    return {
        "projections": query_key_value + linear(width, width),
        name: _inside_tiles(vision, tiles, lengths or (tokens,), itemsize, full_map=full_map),
        "ffn": narrow.times(2 if vision.gated else 1) + wide,
        "elementwise": elementwise(
            all_ * (5 * width + (2 if vision.gated else 1) * inner) + vectors * width + more,
            all_ * (4 * width + inner) + more,
            itemsize,
            launches=4 + vision.rotary + 2 * vision.scaled,
        ),
    }


def _inside_tiles(
    vision: Vision, tiles: int, lengths: tuple[int, ...], itemsize: int, *, full_map: bool
) -> Work:
    """Attention of each of `lengths` tokens to themselves, in every tile."""
    done = Work()
    for length, number in Counter(lengths).items():
        one = _attention(
            tiles,
            vision.heads,
            vision.hidden,
            vision.hidden,
            length,
            length,
            length * length,
            itemsize,
            full_map=full_map,
        )
        done = done + one.times(number)
    return done


def tower_rows(
    vision: Vision, tiles: int, rows: int, keys: int, itemsize: int, lengths: tuple[int, ...] = ()
) -> Work:
    """Attention rows computed beside the kernel of a tower's layer; of all patches, where they
    attend to no more than their own of `lengths` in a tile."""
    width, done = vision.hidden, Work()
    if not lengths:
        return attention_rows(tiles, vision.heads, width, width, rows, keys, itemsize)
    for length, number in Counter(lengths).items():
        one = attention_rows(tiles, vision.heads, width, width, length, length, itemsize)
        done = done + one.times(number)
    return done


def projectors(shape: Shape, patches: int, itemsize: int) -> Iterator[Operators]:
    """What turns `patches` patches (all tiles) into visual tokens, and into what is added to them
    behind decoder layers: two products each, and biases."""
    tokens = patches // shape.vision.merge**2
    for each in shape.projectors:
        yield _projector(each, tokens, itemsize)


def _projector(projector: Projector, tokens: int, itemsize: int) -> Operators:
    inner, bias, normed = projector.inner, projector.bias, bool(projector.normed)
    activated = tokens * (inner + normed * projector.inputs)
    return {
        "projector": matmul(tokens, projector.inputs, inner, itemsize, bias=bias)
        + matmul(tokens, inner, projector.outputs, itemsize, bias=bias),
        "elementwise": elementwise(activated, activated, itemsize, launches=1 + normed),
    }


def resampling(shape: Shape, batch: int, encoder: Encoder, itemsize: int) -> Work:
    """Projected patches of the tiles behind a base tile, or without one of all of them,
    interpolated to visual tokens."""
    width = batch * shape.projector.outputs
    patches = (encoder.tiles - all(encoder.crops)) * encoder.patches
    return elementwise(width * patches, width * encoder.resampled, itemsize)


def _attention(
    batch: int,
    heads: int,
    width: int,
    kv: int,
    queries: int,
    keys: int,
    pairs: int,
    itemsize: int,
    *,
    full_map: bool,
) -> Work:
    dense = 4 * batch * queries * keys * width
    read = batch * (queries * width + 2 * keys * kv)
    written = batch * queries * width
    weights = batch * heads * queries * keys if full_map else 0
    return Work(
        dense,
        4 * batch * pairs * width,
        (read + 2 * weights) * itemsize,
        (written + 2 * weights) * itemsize,
        3 if full_map else 1,
        2 * batch * (keys - queries) * kv * itemsize,
    )
