"""The text models that are known, and what they hold beside their products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from .reader import Reader


@dataclass(frozen=True)
class DecoderKind:
    """What a text model of transformers has beside its products. Each was held against what
    transformers makes of it: parameters, FLOPs, logits.

    biases: of q, k, v and o: "never", of "qkv" alone, or as `attention_bias` says ("config").
    norms: vectors of the hidden width in a layer. qk_norm: weights of the norms of queries and keys
    in a layer, from heads, kv heads and head_dim.
    """

    biases: Literal["never", "qkv", "config"] = "never"
    norms: int = 2
    qk_norm: Callable[[int, int, int], int] = lambda heads, kv_heads, head_dim: 0


DECODERS: dict[str, DecoderKind] = {
    "llama": DecoderKind("config"),
    "mistral": DecoderKind(),
    "qwen2": DecoderKind("qkv"),
    "qwen2_vl_text": DecoderKind("qkv"),
    "qwen2_5_vl_text": DecoderKind("qkv"),
    "qwen3_vl_text": DecoderKind("config", qk_norm=lambda heads, kv_heads, head_dim: 2 * head_dim),
    "qwen3": DecoderKind("config", qk_norm=lambda heads, kv_heads, head_dim: 2 * head_dim),
    "gemma": DecoderKind("config"),
    "phi3": DecoderKind(),
    "granite": DecoderKind("config"),
    "olmo2": DecoderKind(
        "config", qk_norm=lambda heads, kv_heads, head_dim: (heads + kv_heads) * head_dim
    ),
    "cohere": DecoderKind(
        "config", norms=1, qk_norm=lambda heads, kv_heads, head_dim: (heads + kv_heads) * head_dim
    ),
}


def require_known_decoder(reader: Reader, kind: Any) -> None:
    """Refuse a text model that is not known by its name; raises ModelError. kind: as `model_type`
    of its section has it."""
    if kind not in DECODERS:
        known = ", ".join(DECODERS)
        reader.refuse(f"the text model {kind!r} is not supported; known: {known}")
