"""The model's forward pass as training needs it: a picture once for all questions about it.

The same weights as transformers' module, and its results: `test_seer_training` holds one against
the other.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

DEPTH = 7  # layers of the decoder, behind which a noun is to know what it names


def tower(vision: Any, pixels: Tensor, corner: tuple[int, int] = (0, 0)) -> tuple[Tensor, Tensor]:
    """Patches [B, N, C] after the last layer but one, and the class token [B, C] after the last.

    pixels: [B, 3, H, W]. corner: row and column of the first patch, for pictures that are smaller
    than the model's.
    """
    embeddings = vision.embeddings
    patches = embeddings.patch_embedding(pixels)
    rows, columns = patches.shape[2:]
    width = patches.shape[1]
    side = int((embeddings.position_embedding.weight.shape[0] - 1) ** 0.5)
    grid = embeddings.position_embedding.weight[1:].view(side, side, width)
    places = grid[corner[0] : corner[0] + rows, corner[1] : corner[1] + columns]
    patches = patches.permute(0, 2, 3, 1) + places
    first = embeddings.class_embedding + embeddings.position_embedding.weight[0]
    hidden = torch.cat(
        [first.expand(len(pixels), 1, width), patches.reshape(len(pixels), -1, width)], 1
    )
    hidden = vision.pre_layrnorm(hidden)
    layers = vision.encoder.layers
    for layer in layers[:-1]:
        hidden = tower_layer(layer, hidden, hidden)
    last = tower_layer(layers[-1], hidden[:, :1], hidden)
    return hidden[:, 1:], vision.post_layernorm(last[:, 0])


def tower_layer(layer: Any, queries: Tensor, hidden: Tensor) -> Tensor:
    """A layer's output for `queries`, the first rows of `hidden`."""
    attention = layer.self_attn
    normed = layer.layer_norm1(hidden)
    query = _heads(attention.q_proj(normed[:, : queries.shape[1]]), attention.num_heads)
    key = _heads(attention.k_proj(normed), attention.num_heads)
    value = _heads(attention.v_proj(normed), attention.num_heads)
    mixed = F.scaled_dot_product_attention(query, key, value)
    result = queries + attention.out_proj(_joined(mixed))
    inner = layer.mlp.fc1(layer.layer_norm2(result))
    output: Tensor = result + layer.mlp.fc2(inner * torch.sigmoid(1.702 * inner))
    return output


def answers(
    language: Any,
    head: Tensor,
    before: Tensor,
    visual: Tensor,
    places: Tensor,
    tokens: Tensor,
    wanted: Tensor,
    nouns: Tensor,
    total: int,
) -> tuple[Tensor, Tensor]:
    """Logits [B, Q, W, words] at the `wanted` tokens of each question: of what follows them; and
    what the `nouns` have become behind layer DEPTH: [B, Q, K, d].

    Each question sees what stands before it and itself, as if it were the only one.

    before: [P], ids of the text before the picture. visual: [B, V, d], some of the visual tokens.
    places: [B, V], where they stand among all `total`. tokens: [B, Q, L], ids of the questions with
    their answers, padded at the end. wanted, nouns: [B, Q, W] and [B, Q, K], indices of some of
    them.
    """
    batch, count, longest = tokens.shape
    ahead = len(before)
    start = language.embed_tokens(before).expand(batch, ahead, -1)
    prefix = torch.cat([start, visual], 1)
    counted = torch.arange(max(ahead, longest, count), device=visual.device)
    prefix_places = torch.cat([counted[:ahead].expand(batch, ahead), places + ahead], 1)
    text = language.embed_tokens(tokens).flatten(1, 2)
    text_places = (ahead + total + counted[:longest]).repeat(count).expand(batch, -1)
    hidden = torch.cat([prefix, text], 1)
    seen = prefix.shape[1]
    cos, sin = language.rotary_emb(hidden, torch.cat([prefix_places, text_places], 1))
    cos, sin = cos[:, None], sin[:, None]
    mask = question_mask(count, longest, seen, visual.device)
    last, named = ((some + counted[:count, None] * longest).flatten(1) for some in (wanted, nouns))
    for layer in language.layers[:DEPTH]:
        hidden = decoder_layer(layer, hidden, cos, sin, mask, seen)
    row = named[..., None].expand(-1, -1, hidden.shape[2])
    looked = hidden[:, seen:].gather(1, row).view(*nouns.shape, -1)
    for layer in language.layers[DEPTH:-1]:
        hidden = decoder_layer(layer, hidden, cos, sin, mask, seen)
    answering = _last_layer(language.layers[-1], hidden, cos, sin, mask, seen, last)
    normed = language.norm(answering)
    return F.linear(normed, head).view(batch, count, wanted.shape[2], -1), looked


@functools.lru_cache(maxsize=8)
def question_mask(count: int, longest: int, seen: int, device: torch.device) -> Tensor:
    """What is added to the scores of question tokens: [count * longest, seen + count * longest]."""
    causal = torch.ones(longest, longest).tril()
    own = torch.kron(torch.eye(count), causal) > 0
    allowed = torch.cat([torch.ones(count * longest, seen, dtype=torch.bool), own], 1)
    return torch.zeros(allowed.shape).masked_fill(~allowed, -torch.inf).to(device)


def decoder_layer(
    layer: Any, hidden: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, seen: int
) -> Tensor:
    query, key, value = _projected(layer, hidden, cos, sin)
    first = F.scaled_dot_product_attention(
        query[:, :, :seen], key[:, :, :seen], value[:, :, :seen], is_causal=True
    )
    rest = F.scaled_dot_product_attention(query[:, :, seen:], key, value, attn_mask=mask)
    mixed = _joined(torch.cat([first, rest], 2))
    return _feed_forward(layer, hidden + layer.self_attn.o_proj(mixed))


def _last_layer(
    layer: Any, hidden: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, seen: int, last: Tensor
) -> Tensor:
    """The layer's output at the question tokens `last` [B, W] alone."""
    query, key, value = _projected(layer, hidden, cos, sin)
    index = last[:, None, :, None].expand(-1, query.shape[1], -1, query.shape[3])
    asked = query[:, :, seen:].gather(2, index)
    rest = F.scaled_dot_product_attention(asked, key, value, attn_mask=mask[last][:, None])
    row = last[..., None].expand(-1, -1, hidden.shape[2])
    residual = hidden[:, seen:].gather(1, row)
    return _feed_forward(layer, residual + layer.self_attn.o_proj(_joined(rest)))


def _projected(
    layer: Any, hidden: Tensor, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    attention, config = layer.self_attn, layer.self_attn.config
    normed = rms_norm(hidden, layer.input_layernorm)
    query = _heads(attention.q_proj(normed), config.num_attention_heads)
    key, value = (
        _heads(product(normed), config.num_key_value_heads)
        for product in (attention.k_proj, attention.v_proj)
    )
    query, key = _turned(query, cos, sin), _turned(key, cos, sin)
    shared = config.num_attention_heads // config.num_key_value_heads
    if shared == 1:
        return query, key, value
    return query, key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)


def _feed_forward(layer: Any, hidden: Tensor) -> Tensor:
    normed = rms_norm(hidden, layer.post_attention_layernorm)
    mlp = layer.mlp
    output: Tensor = hidden + mlp.down_proj(F.silu(mlp.gate_proj(normed)) * mlp.up_proj(normed))
    return output


def rms_norm(hidden: Tensor, norm: Any) -> Tensor:
    return F.rms_norm(hidden, (hidden.shape[-1],), norm.weight, norm.variance_epsilon)


def _turned(values: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = values.chunk(2, -1)
    return values * cos + torch.cat([-right, left], -1) * sin


def _heads(values: Tensor, heads: int) -> Tensor:
    batch, length, width = values.shape
    return values.view(batch, length, heads, width // heads).transpose(1, 2)


def _joined(values: Tensor) -> Tensor:
    return values.transpose(1, 2).flatten(2)
