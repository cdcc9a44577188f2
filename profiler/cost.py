"""Analytic cost of a request: FLOPs and KV bytes, derived from its ledger. No torch here.

Convention: matrix products and convolutions only, 1 MAC = 2 FLOPs; attention counted dense (both
triangles); every token that enters a layer, text included; gated FFN with three matrices; softmax,
norms, rotary tables, sorting and element-wise work count nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..methods.core.ledger import Ledger, RowsRead
from ..methods.core.plan import Plan
from ..methods.core.request import Request
from .models.shapes import Shape, Text, Vision


@dataclass(frozen=True)
class Item:
    """FLOPs of one operator class in one part of a request, whole batch.

    `phase` and `part` are those of the clock; `index` is a layer or a decode step.
    """

    phase: str
    part: str
    index: int | None
    operator: str
    flops: int


def flops(shape: Shape, request: Request, plan: Plan, ledger: Ledger) -> list[Item]:
    """Every matrix product of the request that `ledger` describes, in order."""
    items = [*_vision(shape, request, plan, ledger)]
    for layer, tokens in enumerate(ledger.tokens):
        items += [
            Item("prefill", "layer", layer, operator, count)
            for operator, count in _decoder_layer(shape.text, tokens, tokens)
        ]
        items += _rows("prefill", layer, ledger.rows.get(layer), shape.text.hidden)
    for stage, count in zip(plan.stages, ledger.select, strict=True):
        items.append(Item("prefill", "select", stage.layer, "select", count))
    items.append(Item("head", "head", None, "head", _head(shape.text)))
    for step, keys in enumerate(ledger.decode_keys):
        for count in keys:
            items += [
                Item("decode", "token", step, operator, number)
                for operator, number in _decoder_layer(shape.text, 1, count)
            ]
        items.append(Item("decode", "token", step, "head", _head(shape.text)))
    return [
        Item(item.phase, item.part, item.index, item.operator, item.flops * request.batch)
        for item in items
        if item.flops
    ]


def total(items: Iterable[Item], phase: str | None = None) -> int:
    """FLOPs of all items, or of those of one phase."""
    return sum(item.flops for item in items if phase in (None, item.phase))


def kv_bytes(shape: Shape, request: Request, cached: list[int], itemsize: int) -> list[int]:
    """Bytes of keys and values per decoder layer: 2 * tokens * kv_heads * head_dim * itemsize."""
    text = shape.text
    token = 2 * text.kv_heads * text.head_dim * itemsize
    return [token * count * request.batch for count in cached]


def _decoder_layer(text: Text, queries: int, keys: int) -> list[tuple[str, int]]:
    kv_width = text.kv_heads * text.head_dim
    return [
        ("projections", 2 * queries * text.hidden * (2 * text.hidden + 2 * kv_width)),
        ("attention", 4 * queries * keys * text.hidden),
        ("ffn", 6 * queries * text.hidden * text.intermediate),
    ]


def _head(text: Text) -> int:
    return 2 * text.hidden * text.vocabulary


def _rows(phase: str, layer: int, read: RowsRead | None, width: int) -> list[Item]:
    if read is None:
        return []
    return [Item(phase, "score", layer, "rows", 2 * read.rows * read.keys * width)]


def _vision(shape: Shape, request: Request, plan: Plan, ledger: Ledger) -> Iterable[Item]:
    encoder, vision = request.encoder, shape.vision
    if encoder is None:
        return
    tiles = encoder.tiles
    embedding = 2 * tiles * encoder.patches * vision.patch_weights
    yield Item("vision", "tower", None, "patch embedding", embedding)
    for layer, tokens in enumerate(ledger.encoder_tokens):
        for operator, count in _tower_layer(vision, tokens):
            yield Item("vision", "tower", layer, operator, tiles * count)
        for item in _rows("vision", layer, ledger.encoder_rows.get(layer), vision.hidden):
            yield Item(item.phase, item.part, item.index, item.operator, tiles * item.flops)
    for stage in plan.encoder_stages:
        yield Item("vision", "select", stage.layer, "select", tiles * stage.flops)
    patches = ledger.encoder_tokens[-1] - int(encoder.has_cls)
    yield Item("vision", "tower", None, "projector", tiles * _projector(shape, patches))


def _tower_layer(vision: Vision, tokens: int) -> list[tuple[str, int]]:
    return [
        ("projections", 8 * tokens * vision.hidden**2),
        ("attention", 4 * tokens * tokens * vision.hidden),
        ("ffn", 4 * tokens * vision.hidden * vision.intermediate),
    ]


def _projector(shape: Shape, patches: int) -> int:
    joined = shape.vision.hidden * shape.vision.merge**2
    tokens = patches // shape.vision.merge**2
    inner = joined if shape.architecture == "qwen2-vl" else shape.text.hidden
    return 2 * tokens * (joined * inner + inner * shape.text.hidden)
