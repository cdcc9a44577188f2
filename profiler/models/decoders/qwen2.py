"""Qwen2, the decoder of Qwen's models, InternVL3 and LLaVA-OneVision."""

from __future__ import annotations

from typing import Any

from ..architecture import text_keys
from ..shapes import Text


def qwen2_text(
    layers: int,
    hidden: int,
    intermediate: int,
    heads: int,
    kv_heads: int,
    vocabulary: int,
    *,
    positions: int = 32768,
) -> Text:
    """A decoder as Qwen2 has it: biases of queries, keys and values alone."""
    return Text(
        layers,
        hidden,
        intermediate,
        heads,
        kv_heads,
        vocabulary,
        qkv_bias=True,
        positions=positions,
    )


SMALL_QWEN2 = qwen2_text(16, 384, 1024, 6, 2, 8192)
MICRO_QWEN2 = Text(8, 64, 112, 4, 2, 512, qkv_bias=True)


def qwen2_config(text: Text) -> Any:
    """The transformers config of the decoder."""
    from transformers import Qwen2Config

    return Qwen2Config(
        **text_keys(text),
        tie_word_embeddings=text.tied,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
