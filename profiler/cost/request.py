"""Analytic cost of a request, derived from its ledger: all work, part by part. No torch here.

Conventions of the FLOPs: matrix products and convolutions only, 1 MAC = 2 FLOPs; attention counted
dense (both triangles) and, apart, causal; every token that enters a layer, text included; gated
FFN with three matrices; softmax, norms, rotary tables, sorting and element-wise work count nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from ...methods.contract.plan import Plan
from ...methods.contract.request import Request
from ...methods.engine.ledger import Ledger, planned
from ..models.shapes import Shape
from . import layers
from .work import Item, Operators, Work, elementwise, merged


def items(shape: Shape, request: Request, plan: Plan, ledger: Ledger, itemsize: int) -> list[Item]:
    """All work of the request that `ledger` describes, whole batch, in order.

    itemsize: bytes of an element of weights and hidden states.
    """
    phases = (_vision, _prefill, _selection, _decode)
    found = [item for phase in phases for item in phase(shape, request, plan, ledger, itemsize)]
    return merged(found)


def text_only(shape: Shape, request: Request, itemsize: int) -> list[Item]:
    """All work of vanilla's request if the decoder saw no visual token, the tower as it is."""
    bare = replace(request, segments=())
    plan = Plan(visual=0)
    return items(shape, bare, plan, planned(plan, bare, "rows"), itemsize)


def kv_bytes(shape: Shape, request: Request, cached: list[int], itemsize: int) -> list[int]:
    """Bytes of keys and values per decoder layer: 2 * tokens * kv_heads * head_dim * itemsize."""
    text = shape.text
    token = 2 * text.kv_width * itemsize
    return [token * count * request.batch for count in cached]


def _vision(
    shape: Shape, request: Request, plan: Plan, ledger: Ledger, itemsize: int
) -> Iterator[Item]:
    encoder, vision, text = request.encoder, shape.vision, shape.text
    if encoder is None:
        return
    tiles, extra = request.batch * encoder.tiles, int(encoder.has_cls)
    patched = layers.patch_embedding(vision, tiles * encoder.patches, itemsize)
    yield Item("vision", "tower", None, "patch embedding", patched)
    for layer, tokens in enumerate(ledger.encoder_tokens):
        full_map = layer in ledger.encoder_maps
        done = layers.tower_layer(shape, tiles, tokens, itemsize, full_map=full_map)
        yield from _each("vision", "tower", layer, done)
        if read := ledger.encoder_rows.get(layer):
            rows = layers.attention_rows(
                tiles, vision.heads, vision.hidden, vision.hidden, read.rows, read.keys, itemsize
            )
            yield Item("vision", "score", layer, "rows", rows)
    for stage, count in zip(plan.encoder_stages, ledger.encoder_select, strict=True):
        flops = tiles * count
        yield Item("vision", "select", stage.layer, "select", Work(flops, flops))
    patches = tiles * (ledger.encoder_tokens[-1] - extra)
    yield from _each("vision", "tower", None, layers.projector(shape, patches, itemsize))
    sequence = layers.embedding(text, request.batch, ledger.tokens[0], itemsize)
    yield Item("embed", "embed", None, "elementwise", sequence)


def _prefill(
    shape: Shape, request: Request, plan: Plan, ledger: Ledger, itemsize: int
) -> Iterator[Item]:
    text = shape.text
    for layer, tokens in enumerate(ledger.tokens):
        full_map = layer in ledger.maps
        done = layers.decoder_layer(
            text, request.batch, tokens, tokens, itemsize, full_map=full_map
        )
        yield from _each("prefill", "layer", layer, done)
        if read := ledger.rows.get(layer):
            rows = layers.attention_rows(
                request.batch,
                text.heads,
                text.attention_width,
                text.kv_width,
                read.rows,
                read.keys,
                itemsize,
            )
            yield Item("prefill", "score", layer, "rows", rows)


def _selection(
    shape: Shape, request: Request, plan: Plan, ledger: Ledger, itemsize: int
) -> Iterator[Item]:
    """What stages decide, and the move of the hidden states and caches that survive."""
    width, tokens = shape.text.hidden, ledger.tokens
    for stage, count in zip(plan.stages, ledger.select, strict=True):
        flops, first = count * request.batch, stage.first_layer_after
        moved = Work()
        if 0 < first < len(tokens) and tokens[first] != tokens[first - 1]:
            states = request.batch * tokens[first] * width
            moved = elementwise(states, states, itemsize)
        yield Item("prefill", "select", stage.layer, "select", Work(flops, flops) + moved)
    shrunk = [layer for layer in plan.compressed if ledger.cached[layer] < tokens[layer]]
    if shrunk:
        per_layer = kv_bytes(shape, request, ledger.cached, itemsize)
        kept = sum(per_layer[layer] for layer in shrunk)
        moved = elementwise(kept, kept, 1, launches=2 * len(shrunk))
        yield Item("prefill", "compress", None, "select", moved)


def _decode(
    shape: Shape, request: Request, plan: Plan, ledger: Ledger, itemsize: int
) -> Iterator[Item]:
    """The head behind prefill, and every decode step."""
    text, batch, maps = shape.text, request.batch, set(ledger.decode_maps)
    yield from _each("head", "head", None, layers.head(text, batch, itemsize))
    for step, keys in enumerate(ledger.decode_keys):
        alike = Counter((count, layer in maps) for layer, count in enumerate(keys))
        for (count, full_map), number in alike.items():
            done = layers.decoder_layer(text, batch, 1, count, itemsize, full_map=full_map)
            for operator, work in done.items():
                yield Item("decode", "token", step, operator, work.times(number))
        yield from _each("decode", "token", step, layers.head(text, batch, itemsize))


def _each(phase: str, part: str, index: int | None, done: Operators) -> Iterator[Item]:
    for operator, work in done.items():
        yield Item(phase, part, index, operator, work)
