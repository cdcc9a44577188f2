"""The call of one decoder layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .attention import Attention

PositionEmbeddings = tuple[Tensor, Tensor]
"""Cosine and sine of the tokens at hand, each [B or 1, S, head_dim]."""


def call_layer(
    layer: nn.Module,
    hidden: Tensor,
    cache: Any,
    position_embeddings: PositionEmbeddings,
    attention: Attention,
) -> Tensor:
    """A decoder layer, called as transformers calls it. Without a cache it keeps no keys."""
    output: Tensor = layer(
        hidden,
        attention_mask=None,
        position_ids=None,
        past_key_values=cache,
        use_cache=cache is not None,
        position_embeddings=position_embeddings,
        tpprof=attention,
    )
    return output
