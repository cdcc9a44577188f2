"""LLaVA patched as forks patch it: the text model's forward prunes by a full attention map.

Written for tests and benchmarks; batch 1.
"""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import LlamaModel

import tpprof
from tpprof.profiler.models.registry import known_architectures


@dataclass(frozen=True)
class Pruning:
    """start: tokens of text before the picture. visual: its tokens, of which `keep` stay from
    layer `layer` on."""

    start: int
    visual: int
    keep: int
    layer: int = 2


KEEP, LAYER = 18, 2
MICRO = Pruning(35, 36, KEEP, LAYER)


def plain() -> Any:
    """transformers' own model."""
    return tpprof.load(known_architectures()["llava"].micro(), device="cpu", seed=1).module


def fastv_way() -> Any:
    return by_forward(plain(), MICRO)


def sparsevlm_way() -> Any:
    return by_class(plain(), MICRO)


def lengths_differ() -> Any:
    """A pruned model that keeps one token less in each request."""
    model, left = plain(), [KEEP]
    text = model.model.language_model

    def forward(self: Any, **given: Any) -> Any:
        if given["inputs_embeds"].shape[1] > 1:
            left[0] -= 1
        return walked(self, by_last, Pruning(35, 36, left[0], LAYER), **given)

    text.forward = types.MethodType(forward, text)
    return model


def of_tiny() -> Any:
    return by_forward(*of("tiny", keep=320))


def of_7b() -> Any:
    """LLaVA-NeXT 7B that keeps 320 visual tokens FastV's way, on the device of the run."""
    return by_forward(*of("llava-next-7b", keep=320))


def of(name: str, keep: int) -> tuple[Any, Pruning]:
    """A known model, and how it is pruned for the usual picture in transformers' own layout."""
    model = tpprof.load(name)
    request = tpprof.inputs(model, layout="anyres").request
    return model.module, Pruning(request.before, request.visual, keep)


def by_forward(model: Any, pruning: Pruning) -> Any:
    """Patch it as FastV does: the forward of the text model is another one, and the last token
    decides."""
    text = model.model.language_model
    text.forward = types.MethodType(
        lambda self, **given: walked(self, by_last, pruning, **given), text
    )
    return model


def by_class(model: Any, pruning: Pruning) -> Any:
    """Patch it as SparseVLM does: the text model is a class of its own, and all text behind the
    picture decides."""
    text = model.model.language_model
    text.__class__, text.pruning = SparseLlamaModel, pruning
    return model


def by_last(attention: Tensor, pruning: Pruning) -> Tensor:
    return attention.mean(1)[:, -1]


def by_text(attention: Tensor, pruning: Pruning) -> Tensor:
    return attention.mean(1)[:, pruning.start + pruning.visual :].mean(1)


class SparseLlamaModel(LlamaModel):
    def forward(self, **given: Any) -> Any:  # type: ignore[override]
        return walked(self, by_text, self.pruning, **given)


def walked(
    text: Any,
    score: Any,
    pruning: Pruning,
    *,
    inputs_embeds: Tensor,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    past_key_values: Any = None,
    **given: Any,
) -> Any:
    """The decoder layers, over fewer tokens from one of them on. A decode step goes through them
    all."""
    given.pop("input_ids", None)
    hidden, prefill = inputs_embeds, inputs_embeds.shape[1] > 1
    if position_ids is None:
        start = past_key_values.get_seq_length()
        position_ids = torch.arange(start, start + hidden.shape[1], device=hidden.device)[None]
    rotary = text.rotary_emb(hidden, position_ids=position_ids)
    for index, layer in enumerate(text.layers):
        shared = {"position_ids": position_ids, "past_key_values": past_key_values, **given}
        if prefill and index == pruning.layer - 1:
            hidden, attention = with_map(text, layer, hidden, rotary, shared)
            stay = staying(score(attention, pruning)[0], pruning)
            hidden, position_ids = hidden[:, stay], position_ids[:, stay]
            rotary = tuple(table[:, stay] for table in rotary)
            continue
        hidden = layer(hidden, attention_mask=None, position_embeddings=rotary, **shared)
    return BaseModelOutputWithPast(
        last_hidden_state=text.norm(hidden), past_key_values=past_key_values
    )


def staying(scores: Tensor, pruning: Pruning) -> Tensor:
    """The places of what stays: all text, and the best visual tokens in their order."""
    start, stop = pruning.start, pruning.start + pruning.visual
    chosen = start + scores[start:stop].topk(pruning.keep).indices.sort().values
    before = torch.arange(start, device=scores.device)
    return torch.cat([before, chosen, torch.arange(stop, len(scores), device=scores.device)])


def with_map(text: Any, layer: Any, hidden: Tensor, rotary: Any, shared: Any) -> Any:
    """A layer under the eager kernel, and its attention [B, heads, queries, keys]."""
    seen: list[Tensor] = []
    handle = layer.self_attn.register_forward_hook(lambda *given: seen.append(given[2][1]))
    own = text.config._attn_implementation
    text.config._attn_implementation = "eager"
    mask = create_causal_mask(
        config=text.config,
        inputs_embeds=hidden,
        attention_mask=None,
        past_key_values=None,
        position_ids=shared["position_ids"],
    )
    try:
        return layer(hidden, attention_mask=mask, position_embeddings=rotary, **shared), seen[0]
    finally:
        text.config._attn_implementation = own
        handle.remove()
