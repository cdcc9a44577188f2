"""The engine: vision, prefill and decode over the model's own layers, pruned as a method decides.

It owns masks (none where causality suffices), positions, the KV cache per layer, gathers, merges
and the ledger. It calls the transformers layer modules and copies none of their code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..contract.method import Method
from ..contract.plan import Plan
from ..contract.plan_checks import plan_for
from ..contract.policies import Policy
from ..contract.request import UnsupportedError
from ..contract.view import Notes
from .attention import BIASED, held_to
from .context import Context, Lap, no_lap
from .decoder import Decoder, Inputs
from .devices import current_restored
from .ledger import Ledger
from .runtimes.runtime import Runtime
from .verify import DecisionCost
from .vision import VisionTower


@dataclass
class KVBytes:
    """Bytes of keys and values in each decoder layer's cache tensors, whole batch."""

    prefill: list[int]
    decode: list[int]


@dataclass
class Trace:
    """What one request gave.

    logits: [B, vocabulary] at the last prefill position. step_logits: [B, new_tokens - 1,
    vocabulary], one per decode step. tokens: int64 [B, new_tokens], greedy; fewer where all
    sequences ended before.
    visual_per_layer: visual tokens entering each decoder layer. kept: per decoder layer, int64
    [B, n], indices into the original visual tokens in their order in the sequence, -1 for a
    merged one. kv_bytes: per layer, after prefill and after decode. ledger: all counts that FLOPs
    follow from. solved: knobs that were solved to meet the budget. decisions: what each decision
    took, where they were verified.
    """

    logits: Tensor
    step_logits: Tensor
    tokens: Tensor
    visual_per_layer: list[int]
    kept: list[Tensor]
    kv_bytes: KVBytes
    ledger: Ledger
    solved: dict[str, float]
    decisions: list[DecisionCost]


@torch.no_grad()
def run(
    decoder: Decoder,
    inputs: Inputs,
    method: Method,
    *,
    attention: Policy = "rows",
    new_tokens: int | None = None,
    solved: dict[str, float] | None = None,
    lap: Lap | None = None,
    runtime: Runtime | None = None,
    verify: bool = False,
    ends: Sequence[int] = (),
) -> Trace:
    """Run one request with `method` and return its trace.

    `attention` says how scoring layers are computed (rows, maps, published). `solved` carries
    solved knobs from the first request of a series to the next. `lap` is told as parts end.
    `runtime`, made for this decoder, goes from request to request of one series; None is eager.
    `verify` holds each decision against the plan, which makes the device wait. `ends` are tokens
    that end an answer: eager decode stops once each sequence has given one; without them it goes on
    to the last token asked for, as where it is timed.
    Raises BudgetError where the method cannot meet its budget on this request, UnsupportedError
    where this model cannot run it, PlanError for a plan that does not fit it.
    """
    request = dataclasses.replace(
        inputs.request, new_tokens=inputs.request.new_tokens if new_tokens is None else new_tokens
    )
    plan = plan_for(method, request) if verify else method.plan(request)
    require_backend(plan, decoder.backend)
    chosen = runtime or Runtime(decoder)

    def once() -> Trace:
        notes = Notes(solved={} if solved is None else solved)
        context = Context(
            decoder,
            inputs,
            method,
            plan,
            attention,
            notes,
            lap or no_lap,
            chosen,
            verify,
            tuple(ends),
        )
        return _request(context, request.new_tokens)

    return chosen.request(once)


@torch.no_grad()
def encode(decoder: Decoder, inputs: Inputs, method: Method) -> Tensor:
    """Projected patches [B, n, d] of the pictures of a request, pruned as `method` does it in the
    vision tower."""
    plan = method.plan(inputs.request)
    runtime = Runtime(decoder)
    context = Context(decoder, inputs, method, plan, "rows", Notes(solved={}), no_lap, runtime)
    with held_to(decoder.backend), runtime.in_force():
        try:
            return decoder.encode(inputs, VisionTower(context))
        finally:
            context.rest()


def require_backend(plan: Plan, backend: str) -> None:
    """Raises UnsupportedError where an attention backend cannot do what a plan asks for."""
    if plan.proportional and backend not in BIASED:
        raise UnsupportedError(
            f"it weighs tokens by their size, and the backend {backend} takes no weights; "
            f"known: {', '.join(BIASED)}"
        )


def _request(context: Context, new_tokens: int) -> Trace:
    runtime, decoder = context.runtime, context.decoder
    with held_to(decoder.backend), runtime.in_force(), current_restored(decoder.devices):
        prompt = runtime.prefill(context)
        tokens, kv_prefill = [prompt.token], prompt.cache_bytes()
        step_logits = runtime.decode(context, prompt.cache, tokens, new_tokens)
    logits = prompt.logits
    return Trace(
        logits=logits,
        step_logits=torch.stack(step_logits, 1) if step_logits else logits[:, None][:, :0],
        tokens=torch.cat(tokens, 1),
        visual_per_layer=context.ledger.visual,
        kept=prompt.kept,
        kv_bytes=KVBytes(prefill=kv_prefill, decode=prompt.cache_bytes()),
        ledger=context.ledger,
        solved=context.notes.solved,
        decisions=context.decisions,
    )
