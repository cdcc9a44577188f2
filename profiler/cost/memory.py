"""Peak memory of a request by formula: weights, KV cache, and the tensors alive at once.

In the eager engine, without what decisions and kernels take as scratch, the allocator's rounding
and the context of the device. Sizes as in `layers`; everything in bytes, whole batch.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...methods.contract.request import Request
from ...methods.engine.ledger import Ledger
from ..models.shapes import Shape
from ..models.weights.pipeline import DeviceShare, parts_of
from .request import kv_bytes

SCORE_BYTES = 9  # of each weight of rows computed beside the kernel: twice in float32, and a mask
MARGIN = 1.03  # for what is too small to be listed: the estimate is to err high
CHANNELS = 16  # to which oneDNN fills up the three colours, for half precision on a CPU
POSITION_BYTES = 8  # of a place in the sequence, int64


def map_bytes(itemsize: int) -> int:
    """Bytes of each weight of a full map while its softmax is taken, which transformers does in
    float32: scores and result, and where scores are half precision, their copy in float32."""
    return 8 if itemsize == 4 else itemsize + 8


def weight_bytes(shape: Shape, itemsize: int, part: DeviceShare | None = None) -> int:
    """Bytes of all weights, or of those of one device of a pipeline."""
    return (shape.parameters if part is None else part.parameters) * itemsize


def peak_bytes(
    shape: Shape, request: Request, ledger: Ledger, itemsize: int, part: DeviceShare | None = None
) -> int:
    """The most that weights, inputs, caches and live tensors take at any time of the request; on
    one device of a pipeline, of what lies and runs there."""
    own = part or parts_of(shape, 1)[0]
    moments = [*_vision(shape, request, ledger, itemsize)] if own.first else []
    moments += _prefill(shape, request, ledger, itemsize, own)
    moments += _decode(shape, request, ledger, itemsize, own)
    whole_request = _traces(shape, request, ledger, itemsize, own)
    whole_request += _inputs(shape, request, itemsize) if own.first else 0
    return weight_bytes(shape, itemsize, part) + int(MARGIN * (whole_request + max(moments)))


def largest_batch(
    shape: Shape,
    request: Request,
    ledger: Ledger,
    itemsize: int,
    memory: int,
    part: DeviceShare | None = None,
) -> int:
    """The largest batch whose peak fits `memory` bytes; 0 if not even one sample does.

    All but the weights grows with the batch.
    """
    weights = weight_bytes(shape, itemsize, part)
    sample = (peak_bytes(shape, request, ledger, itemsize, part) - weights) / request.batch
    return max(0, int((memory - weights) / sample))


def _pixels(shape: Shape, request: Request) -> int:
    """Pixel values of the whole batch."""
    encoder, vision = request.encoder, shape.vision
    if encoder is None:
        return 0
    patches = request.batch * encoder.tiles * encoder.patches
    return patches * vision.patch_weights // vision.hidden


def _inputs(shape: Shape, request: Request, itemsize: int) -> int:
    """What is held as long as the request: pixel values in float32, and what learned positions are
    made from, or, without a picture, the sequence that enters the decoder; and token ids."""
    tokens = request.batch * request.length
    states = tokens * shape.text.hidden * itemsize if request.encoder is None else 0
    pixels, near = _pixels(shape, request), 0
    if shape.vision.positions:  # four places and weights of learned positions for each patch
        near = 4 * (POSITION_BYTES + 4) * pixels * shape.vision.hidden // shape.vision.patch_weights
    return pixels * 4 + near + states + tokens * POSITION_BYTES


def _traces(
    shape: Shape, request: Request, ledger: Ledger, itemsize: int, part: DeviceShare
) -> int:
    """What is carried through the decoder beside the states: cosines and sines of the whole
    sequence and of what remains of it, and the origin of each visual token in every layer."""
    tables = 2 * 2 * request.batch * request.length * shape.text.head_dim * itemsize
    own = ledger.visual[part.layers.start : part.layers.stop]
    return tables + request.batch * sum(own) * POSITION_BYTES


def _vision(shape: Shape, request: Request, ledger: Ledger, itemsize: int) -> Iterator[int]:
    """Pixels in half precision, if it is that; three of width d and two or three of the FFN's
    width a token, or in attention seven of width d beside a map or rows. Before the layers, the
    patch embedding: its output twice, and beside half precision copies of pixels and weights,
    filled up to `CHANNELS`, and of weights and output in float32; or learned positions, four a
    patch, and their products in float32. What is added behind decoder layers is held from its
    layer on. Pictures of dynamic resolution attend one after another, one map at a time, and so do
    windows; rotary tables are float32. Behind the layers, the projector's input, its inner width
    twice and its output; where patches are interpolated, its output four times."""
    encoder, vision = request.encoder, shape.vision
    if encoder is None:
        return
    tiles = request.batch * encoder.tiles
    at_once = 1 if vision.dynamic else tiles
    pixels = _pixels(shape, request)
    half = 0 if itemsize == 4 else pixels * itemsize
    filled = 0 if itemsize == 4 else (pixels + vision.patch_weights) * itemsize * CHANNELS // 3
    patches = tiles * encoder.patches
    copies = 0 if itemsize == 4 else (vision.patch_weights + patches * vision.hidden) * 4
    yield half + filled + copies + 2 * patches * vision.hidden * itemsize
    if vision.positions:
        yield half + patches * vision.hidden * (5 * itemsize + 16)
    if vision.rotary:
        half += 2 * patches * vision.hidden // vision.heads * 4
    for layer, tokens in enumerate(ledger.encoder_tokens):
        states = tiles * tokens * itemsize
        weights, read = at_once * vision.heads, ledger.encoder_rows.get(layer)
        longest = max(encoder.lengths(layer), default=tokens)
        mapped = layer in ledger.encoder_maps
        each = map_bytes(itemsize) if vision.wide_softmax else 2 * itemsize
        full = weights * longest**2 * each if mapped else 0
        asked = min(longest, read.rows) * min(longest, read.keys) if read else 0
        rows = weights * asked * SCORE_BYTES
        feed_forward = states * (3 * vision.hidden + vision.inner_states * vision.intermediate)
        held = _added(shape, request, request.visual, sum(n < layer for n in vision.deepstack))
        attention = states * 7 * vision.hidden + max(full, rows)
        yield half + held * itemsize + max(feed_forward, attention)
    projector, tokens = shape.projector, tiles * ledger.projector // vision.merge**2 * itemsize
    yield half + tokens * (projector.inputs + 2 * projector.inner + projector.outputs)
    if encoder.resampled:
        yield half + tokens * 4 * projector.outputs


def _added(shape: Shape, request: Request, visual: int, count: int) -> int:
    """Elements that `count` layers of the tower have for what is added behind decoder layers."""
    return max(0, count) * request.batch * visual * shape.text.hidden


def _prefill(
    shape: Shape, request: Request, ledger: Ledger, itemsize: int, part: DeviceShare
) -> Iterator[int]:
    """The caches so far, what is added behind this layer and those to come, and in the layer at
    hand the larger of its two halves.

    FFN: input, residual and norm of width d, and gate, up and their product. Attention: input,
    norm and queries of width d, and beside them a full map with its mask and that of the map
    before, and keys and values repeated for all heads; rows; or what the rotary embedding makes of
    queries, keys and values.
    """
    text, batch = shape.text, request.batch
    kv = text.kv_width
    full_caches = kv_bytes(shape, request, ledger.tokens, itemsize)
    for layer in part.layers:
        tokens, caches = ledger.tokens[layer], sum(full_caches[part.layers.start : layer + 1])
        if request.encoder:
            waiting = len(shape.vision.deepstack) - layer
            caches += _added(shape, request, ledger.visual[layer], waiting) * itemsize
        states = batch * tokens * itemsize
        full = 0
        if layer in ledger.maps:
            full = batch * text.heads * tokens**2 * map_bytes(itemsize) + 2 * tokens**2 * itemsize
            full += states * 2 * text.attention_width if text.heads != text.kv_heads else 0
        read = ledger.rows.get(layer)
        rows = batch * text.heads * read.rows * read.keys * SCORE_BYTES if read else 0
        if ahead := ledger.ahead.get(layer):  # before the layer runs, over what enters its stage
            scores = batch * text.heads * ahead.rows * ahead.keys * SCORE_BYTES
            whole = batch * ahead.tokens * itemsize
            yield (
                caches
                - full_caches[layer]
                + whole * (2 * text.hidden + 2 * text.attention_width + 2 * kv)
                + scores
            )
        feed_forward = states * 3 * (text.hidden + text.intermediate)
        rotary = states * (3 * text.attention_width + 2 * kv)
        attention = states * (2 * text.hidden + text.attention_width) + max(full, rows, rotary)
        yield caches + max(feed_forward, attention)


def _decode(
    shape: Shape, request: Request, ledger: Ledger, itemsize: int, part: DeviceShare
) -> Iterator[int]:
    """All caches at their longest, and the last states of prefill; with them the copy of the
    largest cache that takes the last token, or the logits of all steps, kept one by one and then
    put together."""
    if ledger.decode_keys:
        caches = kv_bytes(shape, request, ledger.decode_keys[-1], itemsize)
        caches = caches[part.layers.start : part.layers.stop]
        logits = len(ledger.decode_keys) * request.batch * shape.text.vocabulary * itemsize
        logits = logits if part.head else 0
        # Keys and values grow one after the other.
        states = request.batch * ledger.tokens[part.layers[-1]] * shape.text.hidden * itemsize
        yield sum(caches) + states + max(logits + max(caches) // 2, 2 * logits)
