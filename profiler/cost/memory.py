"""Peak memory of a request by formula: weights, KV cache, and the tensors alive at once.

In the eager engine, without what decisions and kernels take as scratch, the allocator's rounding
and the context of the device. Sizes as in `layers`; everything in bytes, whole batch.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...methods.contract.request import Request
from ...methods.engine.ledger import Ledger
from ..models.shapes import Shape
from .request import kv_bytes

MAP_BYTES = 8  # of each weight of a full map: twice in float32, or in half, half and float32
SCORE_BYTES = 8  # of each weight of rows computed beside the kernel: twice in float32


def weight_bytes(shape: Shape, itemsize: int) -> int:
    """Bytes of all weights."""
    return shape.parameters * itemsize


def peak_bytes(shape: Shape, request: Request, ledger: Ledger, itemsize: int) -> int:
    """The most that weights, inputs, caches and live tensors take at any time of the request."""
    moments = [*_vision(shape, request, ledger, itemsize)]
    moments += _prefill(shape, request, ledger, itemsize)
    moments += _decode(shape, request, ledger, itemsize)
    return weight_bytes(shape, itemsize) + _pixels(shape, request) * 4 + max(moments)


def largest_batch(
    shape: Shape, request: Request, ledger: Ledger, itemsize: int, memory: int
) -> int:
    """The largest batch whose peak fits `memory` bytes; 0 if not even one sample does.

    All but the weights grows with the batch.
    """
    weights = weight_bytes(shape, itemsize)
    sample = (peak_bytes(shape, request, ledger, itemsize) - weights) / request.batch
    return max(0, int((memory - weights) / sample))


def _pixels(shape: Shape, request: Request) -> int:
    """Pixel values of the whole batch; they stay, in float32, as long as the request."""
    encoder, vision = request.encoder, shape.vision
    if encoder is None:
        return 0
    patches = request.batch * encoder.tiles * encoder.patches
    return patches * vision.patch_weights // vision.hidden


def _vision(shape: Shape, request: Request, ledger: Ledger, itemsize: int) -> Iterator[int]:
    """Pixels in half precision, if it is that; three of width d and three of the FFN's width a
    token, or in attention five of width d beside a map, or seven beside rows."""
    encoder, vision = request.encoder, shape.vision
    if encoder is None:
        return
    tiles = request.batch * encoder.tiles
    pixels = 0 if itemsize == 4 else _pixels(shape, request) * itemsize
    for layer, tokens in enumerate(ledger.encoder_tokens):
        states = tiles * tokens * itemsize
        weights, read = tiles * vision.heads, ledger.encoder_rows.get(layer)
        full = weights * tokens**2 * MAP_BYTES if layer in ledger.encoder_maps else 0
        rows = weights * read.rows * read.keys * SCORE_BYTES if read else 0
        feed_forward = states * 3 * (vision.hidden + vision.intermediate)
        yield pixels + max(
            feed_forward, states * 5 * vision.hidden + full, states * 7 * vision.hidden + rows
        )


def _prefill(shape: Shape, request: Request, ledger: Ledger, itemsize: int) -> Iterator[int]:
    """The caches so far, and in the layer at hand the larger of its two halves.

    FFN: input, residual and norm of width d, and gate, up and their product. Attention: input, norm
    and queries of width d, and beside them a full map with its mask, rows, or what the rotary
    embedding makes of queries, keys and values.
    """
    text, batch = shape.text, request.batch
    kv = text.kv_width
    full_caches = kv_bytes(shape, request, ledger.tokens, itemsize)
    for layer, tokens in enumerate(ledger.tokens):
        caches = sum(full_caches[: layer + 1])
        states = batch * tokens * itemsize
        full = 0
        if layer in ledger.maps:
            full = batch * text.heads * tokens**2 * MAP_BYTES + tokens**2 * itemsize
        read = ledger.rows.get(layer)
        rows = batch * text.heads * read.rows * read.keys * SCORE_BYTES if read else 0
        feed_forward = states * 3 * (text.hidden + text.intermediate)
        rotary = states * (3 * text.attention_width + 2 * kv)
        attention = states * (2 * text.hidden + text.attention_width) + max(full, rows, rotary)
        yield caches + max(feed_forward, attention)


def _decode(shape: Shape, request: Request, ledger: Ledger, itemsize: int) -> Iterator[int]:
    """All caches at their longest; with them the copy of the largest that takes the last token, or
    the logits of all steps, kept one by one and then put together."""
    if ledger.decode_keys:
        caches = kv_bytes(shape, request, ledger.decode_keys[-1], itemsize)
        logits = len(ledger.decode_keys) * request.batch * shape.text.vocabulary * itemsize
        # Keys and values grow one after the other.
        yield sum(caches) + max(logits + max(caches) // 2, 2 * logits)
