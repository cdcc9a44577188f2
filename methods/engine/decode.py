"""Decode: one greedy token at a time over caches that differ in length from layer to layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .context import Context
from .devices import moved, near
from .ledger import Ledger, decode_maps


def decode(context: Context, cache: Any, tokens: list[Tensor], new_tokens: int) -> list[Tensor]:
    """Greedy decode, appending to `tokens`; returns the logits [B, vocabulary] of each step."""
    decoder, ledger, plan = context.decoder, context.ledger, context.plan
    if new_tokens <= len(tokens):
        return []
    starts = first_positions(context, ledger)
    tables = {
        (start, device): (near(cos, device), near(sin, device))
        for start, (cos, sin) in rotary_tables(context, starts, new_tokens - 1).items()
        for device in dict.fromkeys(decoder.devices)
    }
    released = plan.published if context.published else None
    ledger.decode_maps = decode_maps(plan, context.policy, len(decoder.layers))
    all_logits = []
    for step in range(new_tokens - 1):
        if context.ends and _ended(tokens, context.ends):
            break
        hidden = decoder.embed(moved(tokens[-1], decoder.devices[0]))
        ledger.decode_keys.append([count + step + 1 for count in ledger.cached])
        for index, device in enumerate(decoder.devices):
            hidden = moved(hidden, device)
            context.set_attention(use_map=index in ledger.decode_maps, reading=None)
            cos, sin = tables[starts[index], device]
            position_embeddings = (cos[:, step : step + 1], sin[:, step : step + 1])
            if released and released.decode:  # one position built on the host for every layer
                position = torch.tensor([[starts[index] + step]]).to(hidden.device)
                position_embeddings = decoder.rotary(hidden, _as_positions(context, position))
            hidden = context.runtime.layer(
                index,
                hidden,
                cache=cache,
                position_embeddings=position_embeddings,
                attention=context.attention,
            )
        logits = decoder.head(moved(hidden, decoder.head_device))[:, 0]
        all_logits.append(logits)
        tokens.append(logits.argmax(-1, keepdim=True))
        context.lap("decode", "token", step)
    return all_logits


def _ended(tokens: list[Tensor], ends: tuple[int, ...]) -> bool:
    """Whether each sequence has given a token that ends it; the device is waited for."""
    given = torch.cat(tokens, 1)
    ended = torch.isin(given, torch.tensor(ends, device=given.device))
    return bool(ended.any(1).all())


def first_positions(context: Context, ledger: Ledger) -> list[int]:
    """The position of the first decoded token in each layer.

    With `keep` it goes on behind the whole prompt as it entered the decoder: what was pruned before
    left no gap. With `compact` each layer goes on behind its own cache, as the released code does.
    M-RoPE has no compact positions, and goes on behind the whole prompt.
    """
    inputs, cached = context.inputs, ledger.cached
    if inputs.positions.dim() > 2:
        return [inputs.next_position] * len(cached)
    if context.plan.positions == "compact":
        return cached
    gone = inputs.request.length - ledger.entering
    return [inputs.next_position - gone] * len(cached)


def rotary_tables(
    context: Context, starts: list[int], steps: int
) -> dict[int, tuple[Tensor, Tensor]]:
    """Cosine and sine [1, steps, head_dim] of the decoded tokens, for each first position."""
    device = context.inputs.positions.device
    like = torch.zeros((), dtype=context.decoder.dtype, device=device)
    tables = {}
    for start in sorted(set(starts)):
        positions = torch.arange(start, start + steps, device=device)[None]
        tables[start] = context.decoder.rotary(like, _as_positions(context, positions))
    return tables


def _as_positions(context: Context, positions: Tensor) -> Tensor:
    """[1, S] as the model's rotary embedding wants it: M-RoPE takes three equal axes."""
    return positions if context.inputs.positions.dim() == 2 else positions.expand(3, 1, -1)
