"""Analytic cost of a request, derived from its ledger: all work, part by part. No torch here.

Conventions of the FLOPs: matrix products and convolutions only, 1 MAC = 2 FLOPs; attention counted
dense (both triangles) and, apart, causal; every token that enters a layer, text included; gated
FFN with three matrices; softmax, norms, rotary tables, sorting and element-wise work count nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from ...methods.contract.plan import Plan, Stage, Tower
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
    plan = Plan()
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
    tiles = request.batch * encoder.tiles
    patched = layers.patch_embedding(vision, tiles * encoder.patches, itemsize)
    yield Item("vision", "tower", None, "patch embedding", patched)
    learned = layers.learned_positions(vision, tiles * encoder.patches, itemsize)
    yield Item("vision", "tower", None, "elementwise", learned)
    for layer, tokens in enumerate(ledger.encoder_tokens):
        full_map = layer in ledger.encoder_maps
        inside = ledger.encoder_inside.get(layer, tokens)
        done = layers.tower_layer(
            shape,
            tiles,
            tokens,
            inside,
            itemsize,
            full_map=full_map,
            lengths=encoder.lengths(layer),
        )
        yield from _each("vision", "tower", layer, done)
        if read := ledger.encoder_rows.get(layer):
            rows = layers.tower_rows(
                vision, tiles, read.rows, read.keys, itemsize, encoder.lengths(layer)
            )
            yield Item("vision", "score", layer, "rows", rows)
    for stage, count in zip(plan.stages, ledger.select, strict=True):
        if isinstance(stage.site, Tower):
            yield Item("vision", "select", stage.layer, "select", _decision(stage, tiles * count))
    patches = tiles * ledger.projector
    for done in layers.projectors(shape, patches, itemsize):
        yield from _each("vision", "tower", None, done)
    if encoder.resampled:
        resampled = layers.resampling(shape, request.batch, encoder, itemsize)
        yield Item("vision", "tower", None, "elementwise", resampled)
    sequence = layers.embedding(text, request.batch, ledger.sequence, itemsize)
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
        if request.encoder and layer < len(shape.vision.deepstack):
            added = layers.added_features(text, request.batch, ledger.visual[layer], itemsize)
            yield Item("prefill", "layer", layer, "elementwise", added)
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
        if ahead := ledger.ahead.get(layer):
            read_ahead = layers.ahead(
                text, request.batch, ahead.tokens, ahead.rows, ahead.keys, itemsize
            )
            yield Item("prefill", "score", layer, "rows", read_ahead)


def _selection(
    shape: Shape, request: Request, plan: Plan, ledger: Ledger, itemsize: int
) -> Iterator[Item]:
    """What stages decide, and the move of the hidden states and caches that survive."""
    levels = [ledger.sequence, ledger.entering, *ledger.tokens]
    moves = {_level(stage): stage for stage in plan.stages}  # of several at one, the last one
    for stage, count in zip(plan.stages, ledger.select, strict=True):
        level = _level(stage)
        if level == 0:
            continue
        moved = Work()
        if moves[level] is stage and level < len(levels) and levels[level] != levels[level - 1]:
            states = request.batch * levels[level] * shape.text.hidden
            moved = elementwise(states, states, itemsize)
        phase, index = ("prefill", stage.layer) if stage.in_decoder else ("project", 0)
        yield Item(
            phase, "select", index, "select", _decision(stage, request.batch * count) + moved
        )
    shrunk = [layer for layer in plan.compressed if ledger.cached[layer] < ledger.tokens[layer]]
    if shrunk:
        per_layer = kv_bytes(shape, request, ledger.cached, itemsize)
        kept = sum(per_layer[layer] for layer in shrunk)
        moved = elementwise(kept, kept, 1, launches=2 * len(shrunk))
        yield Item("prefill", "compress", None, "select", moved)


def _level(stage: Stage) -> int:
    """Behind which stages of the sequence one acts: 1 before the decoder, 2 and more before its
    layers 0 and up; 0 in the tower, whose tokens are counted there."""
    if isinstance(stage.site, Tower):
        return 0
    return stage.first_layer_after + 2 if stage.in_decoder else 1


def _decision(stage: Stage, flops: int) -> Work:
    """What a stage decides with, without the move of what survives."""
    return Work(flops, flops, launches=stage.launches or 0)


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
