"""LLaVA patched as forks patch it: the text model's forward prunes by a full attention map.

Written for these tests: prompts of 35 tokens, 36 visual ones and 25 more, batch 1.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import LlamaModel

import tpprof
from tpprof.profiler.models.registry import known_architectures

START, VISUAL = 35, 36
KEEP, LAYER = 18, 2
"""How many visual tokens stay, and the first layer that sees only them."""


def plain() -> Any:
    """transformers' own model."""
    return tpprof.load(known_architectures()["llava"].micro(), device="cpu", seed=1).module


def fastv_way() -> Any:
    """As FastV does: the forward of the text model is another one, and the last token decides."""
    model = plain()
    text = model.model.language_model
    text.forward = types.MethodType(lambda self, **given: walked(self, by_last, **given), text)
    return model


def sparsevlm_way() -> Any:
    """As SparseVLM does: the text model is a class of its own, and all text behind the picture
    decides."""
    model = plain()
    model.model.language_model.__class__ = SparseLlamaModel
    return model


def lengths_differ() -> Any:
    """A pruned model that keeps one token less in each request."""
    model, text = plain(), None
    text, left = model.model.language_model, [KEEP]

    def forward(self: Any, **given: Any) -> Any:
        if given["inputs_embeds"].shape[1] > 1:
            left[0] -= 1
        return walked(self, by_last, keep=left[0], **given)

    text.forward = types.MethodType(forward, text)
    return model


def by_last(attention: Tensor) -> Tensor:
    return attention.mean(1)[:, -1]


def by_text(attention: Tensor) -> Tensor:
    return attention.mean(1)[:, START + VISUAL :].mean(1)


class SparseLlamaModel(LlamaModel):
    def forward(self, **given: Any) -> Any:  # type: ignore[override]
        return walked(self, by_text, **given)


def walked(
    text: Any,
    score: Any,
    *,
    inputs_embeds: Tensor,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    past_key_values: Any = None,
    keep: int = KEEP,
    **given: Any,
) -> Any:
    """The decoder layers, over fewer tokens from LAYER on. A decode step goes through them all."""
    given.pop("input_ids", None)
    hidden, prefill = inputs_embeds, inputs_embeds.shape[1] > 1
    if position_ids is None:
        start = past_key_values.get_seq_length()
        position_ids = torch.arange(start, start + hidden.shape[1])[None]
    rotary = text.rotary_emb(hidden, position_ids=position_ids)
    for index, layer in enumerate(text.layers):
        shared = {"position_ids": position_ids, "past_key_values": past_key_values, **given}
        if prefill and index == LAYER - 1:
            hidden, attention = with_map(text, layer, hidden, rotary, shared)
            chosen = score(attention)[0, START : START + VISUAL].topk(keep).indices.sort().values
            stay = torch.cat(
                [
                    torch.arange(START),
                    START + chosen,
                    torch.arange(START + VISUAL, hidden.shape[1]),
                ]
            )
            hidden, position_ids = hidden[:, stay], position_ids[:, stay]
            rotary = tuple(table[:, stay] for table in rotary)
            continue
        hidden = layer(hidden, attention_mask=None, position_embeddings=rotary, **shared)
    return BaseModelOutputWithPast(
        last_hidden_state=text.norm(hidden), past_key_values=past_key_values
    )


def with_map(text: Any, layer: Any, hidden: Tensor, rotary: Any, shared: Any) -> Any:
    """A layer under the eager kernel, and its attention [B, heads, queries, keys]."""
    seen: list[Tensor] = []
    handle = layer.self_attn.register_forward_hook(lambda *given: seen.append(given[2][1]))
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
        text.config._attn_implementation = "sdpa"
        handle.remove()
