"""What a request did, in counts: enough to derive its FLOPs and KV bytes. Observed, or planned."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ..contract.plan import Plan, Stage, Tower
from ..contract.policies import Policy
from ..contract.request import Request


@dataclass(frozen=True)
class RowsRead:
    """Attention rows computed beside the kernel: `rows` queries against `keys` keys."""

    rows: int
    keys: int


@dataclass(frozen=True)
class AheadRead(RowsRead):
    """Rows computed of a layer before it runs: the queries, keys and values of all its `tokens`
    were computed for them. 0 rows where keys alone were read."""

    tokens: int


@dataclass
class Ledger:
    """Counts per sample, layer by layer.

    tokens, visual: entering each decoder layer. cached: tokens in each layer's KV cache after
    prefill. rows: rows computed beside the kernel. ahead: what was read of layers before they ran.
    maps: layers that built a full attention map. encoder_tokens: entering each tower layer, per
    tile, class token included; encoder_inside: entering its FFN, where others do. encoder_rows,
    encoder_maps: as rows and maps. projector: what the projector is given of each tile. sequence:
    the embedded prompt, before anything is pruned of it; entering: what of it enters the decoder,
    before a stage of the decoder acts. select: matrix-product FLOPs of each
    stage's decision, per sample (in the tower, per tile). decode_keys: keys that each layer attends
    to, per decode step; decode_maps: layers that build a full map in each of them.
    """

    tokens: list[int] = field(default_factory=list)
    visual: list[int] = field(default_factory=list)
    cached: list[int] = field(default_factory=list)
    rows: dict[int, RowsRead] = field(default_factory=dict)
    ahead: dict[int, AheadRead] = field(default_factory=dict)
    maps: list[int] = field(default_factory=list)
    encoder_tokens: list[int] = field(default_factory=list)
    encoder_inside: dict[int, int] = field(default_factory=dict)
    encoder_rows: dict[int, RowsRead] = field(default_factory=dict)
    encoder_maps: list[int] = field(default_factory=list)
    projector: int = 0
    sequence: int = 0
    entering: int = 0
    decode_keys: list[list[int]] = field(default_factory=list)
    decode_maps: list[int] = field(default_factory=list)
    select: list[int] = field(default_factory=list)


def builds_map(plan: Plan, policy: Policy, layer: int, *, decode: bool = False) -> bool:
    """Whether decoder `layer` builds a full attention map under `policy`."""
    published = plan.published if policy == "published" else None
    if published and layer in published.maps and (published.decode or not decode):
        return True
    stage = plan.readers.get(layer)
    return policy != "rows" and not decode and stage is not None and stage.rows is not None


def decode_maps(plan: Plan, policy: Policy, layers: int) -> list[int]:
    """The decoder layers that build a full attention map in each decode step."""
    return [layer for layer in range(layers) if builds_map(plan, policy, layer, decode=True)]


def tower_map(plan: Plan, policy: Policy, layer: int) -> bool:
    """Whether layer `layer` of the vision tower builds a full attention map under `policy`."""
    published = plan.published if policy == "published" else None
    if published and layer in published.tower_maps:
        return True
    stage = plan.tower_readers.get(layer)
    return policy != "rows" and stage is not None and stage.rows is not None


def row_span(stage: Stage, stop: int, length: int) -> tuple[int, int]:
    """First and last (excluded) of the rows that a stage of the decoder reads, of a sequence of
    `length` tokens whose last picture ends at `stop`; equal where it reads none."""
    if stage.rows is None:
        return 0, 0
    return {"last-visual": (stop - 1, stop), "text": (stop, length)}.get(
        stage.rows.query, (length - 1, length)
    )


def rows_beside(stage: Stage, span: tuple[int, int], *, has_map: bool) -> RowsRead | None:
    """What a reading computes beside the layer's own kernel; None if nothing."""
    if stage.rows is None or (has_map and stage.rows.softmax):
        return None
    return RowsRead(span[1] - span[0], span[1])


def rows_ahead(span: tuple[int, int], length: int, policy: Policy) -> AheadRead:
    """What a reading computes of a layer before it runs: the rows, or under maps all of them."""
    if policy == "maps" and span[0] != span[1]:
        return AheadRead(length, length, length)
    return AheadRead(span[1] - span[0], span[1], length)


def decision_flops(stage: Stage, policy: Policy) -> int:
    """Matrix products of the decision at `stage`, as the plan knows them."""
    published = stage.published_flops if policy == "published" else None
    return stage.flops if published is None else published


def planned(plan: Plan, request: Request, policy: Policy) -> Ledger:
    """The ledger that a run of `plan` will leave; raises ValueError if only the data tells."""
    layers = range(request.layers)
    visual = plan.visual_per_layer(request)
    text = request.text
    cached = [text + count for count in plan.visual_cached(request)]
    ledger = Ledger(tokens=[text + count for count in visual], visual=visual, cached=cached)
    ledger.maps = [layer for layer in layers if builds_map(plan, policy, layer)]
    for layer in layers:
        stage = plan.readers.get(layer)
        if stage is None:
            continue
        span = _span(request, stage, visual[layer])
        beside = rows_beside(stage, span, has_map=layer in ledger.maps)
        if beside:
            ledger.rows[layer] = beside
    present = visual[0] if visual else 0
    for stage in plan.decoder:
        if stage.ahead:
            span = _span(request, stage, present)
            ledger.ahead[stage.read_layer] = rows_ahead(span, text + present, policy)
        present = present if stage.tokens is None else stage.tokens
    ledger.sequence = text + (replace(plan, stages=plan.tower).entering(request) or 0)
    ledger.entering = text + (plan.entering(request) or 0)
    if request.encoder:
        _plan_encoder(ledger, plan, request, policy)
    ledger.select = [decision_flops(stage, policy) for stage in plan.stages]
    steps = range(1, request.new_tokens)
    ledger.decode_keys = [[count + step for count in cached] for step in steps]
    if steps:
        ledger.decode_maps = decode_maps(plan, policy, request.layers)
    return ledger


def _span(request: Request, stage: Stage, visual: int) -> tuple[int, int]:
    length = request.text + visual
    return row_span(stage, length - request.after, length)


def _plan_encoder(ledger: Ledger, plan: Plan, request: Request, policy: Policy) -> None:
    encoder = request.encoder
    assert encoder is not None
    patches, extra = encoder.patches, int(encoder.has_cls)
    ledger.encoder_maps = [n for n in range(encoder.layers) if tower_map(plan, policy, n)]
    for layer in range(encoder.layers):
        ledger.encoder_tokens.append(patches + extra)
        reading = plan.tower_readers.get(layer)
        if reading is not None:
            own = reading.rows is not None and reading.rows.query == "cls"
            span = (0, 1) if own else (extra, patches + extra)
            beside = rows_beside(reading, span, has_map=layer in ledger.encoder_maps)
            if beside:
                ledger.encoder_rows[layer] = RowsRead(beside.rows, patches + extra)
        for stage in plan.tower:
            if stage.layer != layer or stage.tokens is None:
                continue
            if stage.tokens != patches and isinstance(stage.site, Tower) and stage.site.inside:
                ledger.encoder_inside[layer] = stage.tokens + extra
            patches = stage.tokens
    ledger.projector = patches
