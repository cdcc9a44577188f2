"""What a request did, in counts: enough to derive its FLOPs and KV bytes. Observed, or planned."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..contract.plan import Plan, Stage
from ..contract.policies import Policy
from ..contract.request import Request


@dataclass(frozen=True)
class RowsRead:
    """Attention rows computed beside the kernel: `rows` queries against `keys` keys."""

    rows: int
    keys: int


@dataclass
class Ledger:
    """Counts per sample, layer by layer.

    tokens, visual: entering each decoder layer. cached: tokens in each layer's KV cache after
    prefill. encoder_tokens: entering each tower layer, per tile, class token included.
    select: matrix-product FLOPs of each decoder stage's decision, per sample; encoder_select: of
    each stage of the tower, per tile.
    rows, encoder_rows: rows computed beside the kernel. maps, encoder_maps: layers that built a
    full attention map. decode_keys: keys that each layer attends to, per decode step; decode_maps:
    layers that build a full map in each of them.
    """

    tokens: list[int] = field(default_factory=list)
    visual: list[int] = field(default_factory=list)
    cached: list[int] = field(default_factory=list)
    rows: dict[int, RowsRead] = field(default_factory=dict)
    maps: list[int] = field(default_factory=list)
    encoder_tokens: list[int] = field(default_factory=list)
    encoder_rows: dict[int, RowsRead] = field(default_factory=dict)
    encoder_maps: list[int] = field(default_factory=list)
    decode_keys: list[list[int]] = field(default_factory=list)
    decode_maps: list[int] = field(default_factory=list)
    select: list[int] = field(default_factory=list)
    encoder_select: list[int] = field(default_factory=list)


def builds_map(plan: Plan, policy: Policy, layer: int, *, decode: bool = False) -> bool:
    """Whether decoder `layer` builds a full attention map under `policy`."""
    published = plan.published if policy == "published" else None
    if published and layer in published.maps and (published.decode or not decode):
        return True
    return policy != "rows" and not decode and bool(stages_reading(plan, layer))


def decode_maps(plan: Plan, policy: Policy, layers: int) -> list[int]:
    """The decoder layers that build a full attention map in each decode step."""
    return [layer for layer in range(layers) if builds_map(plan, policy, layer, decode=True)]


def stages_reading(plan: Plan, layer: int) -> list[Stage]:
    """The stages that read attention rows of decoder `layer`."""
    return [stage for stage in plan.stages if stage.rows and stage.scored_layer == layer]


def rows_read(request: Request, stage: Stage, visual: int) -> RowsRead:
    """The rows that `stage` reads while `visual` visual tokens are present."""
    length = request.before + visual + request.after
    if stage.rows == "last-visual":
        return RowsRead(1, request.before + visual)
    return RowsRead(request.after if stage.rows == "text" else 1, length)


def decision_flops(stage: Stage, policy: Policy) -> int:
    """Matrix products of the decision at `stage`, as the plan knows them."""
    published = stage.published_flops if policy == "published" else None
    return stage.flops if published is None else published


def planned(plan: Plan, request: Request, policy: Policy) -> Ledger:
    """The ledger that a run of `plan` will leave; raises ValueError if only the data tells."""
    layers = range(request.layers)
    visual = plan.visual_per_layer(request.layers)
    text = request.before + request.after
    cached = [text + count for count in plan.visual_cached(request.layers)]
    ledger = Ledger(tokens=[text + count for count in visual], visual=visual, cached=cached)
    ledger.maps = [layer for layer in layers if builds_map(plan, policy, layer)]
    for layer in layers:
        for stage in stages_reading(plan, layer):
            if layer not in ledger.maps:
                ledger.rows[layer] = rows_read(request, stage, visual[layer])
    if request.encoder:
        _plan_encoder(ledger, plan, request, policy)
    ledger.select = [decision_flops(stage, policy) for stage in plan.stages]
    steps = range(1, request.new_tokens)
    ledger.decode_keys = [[count + step for count in cached] for step in steps]
    if steps:
        ledger.decode_maps = decode_maps(plan, policy, request.layers)
    return ledger


def _plan_encoder(ledger: Ledger, plan: Plan, request: Request, policy: Policy) -> None:
    encoder = request.encoder
    assert encoder is not None
    ledger.encoder_select = [stage.flops for stage in plan.encoder_stages]
    patches, extra = encoder.patches, int(encoder.has_cls)
    for layer in range(encoder.layers):
        ledger.encoder_tokens.append(patches + extra)
        for stage in plan.encoder_stages:
            if stage.layer != layer:
                continue
            if stage.rows and policy == "rows":
                rows = 1 if stage.rows == "cls" else patches
                ledger.encoder_rows[layer] = RowsRead(rows, patches + extra)
            elif stage.rows:
                ledger.encoder_maps.append(layer)
            if stage.tokens is not None:
                patches = stage.tokens
