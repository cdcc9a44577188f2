"""The model's forward pass as training needs it: a picture once for all questions about it.

The same weights as transformers' module, and its results: `test_smol_dino_training` holds one
against the other.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...seer.training.forward import decoder_layer, question_mask, rms_norm
from ..build import MEAN, STD


def features(tower: Any, pixels: Tensor) -> Tensor:
    """Patches [B, 576, 384] after the last layer but one of DINOv2.

    pixels: [B, 3, 336, 336], from 0 to 255.
    """
    mean, std = (torch.tensor(v, device=pixels.device)[:, None, None] for v in (MEAN, STD))
    hidden = tower.embeddings(((pixels / 255 - mean) / std).to(tower.layernorm.weight.dtype))
    for layer in tower.encoder.layer[:-1]:
        hidden = layer(hidden)
    patches: Tensor = hidden[:, 1:]
    return patches


def answers(language: Any, before: Tensor, visual: Tensor, tokens: Tensor, rows: Tensor) -> Tensor:
    """Logits [R, words] at some of the tokens of questions: of what follows them.

    Each question sees what stands before it and itself, as if it were the only one.

    before: [P], ids of the text before the picture. visual: [B, V, d]. tokens: [B, Q, L], ids of
    the questions with their answers, padded at the end. rows: [R], places among all B * Q * L.
    """
    batch, count, longest = tokens.shape
    ahead = language.embed_tokens(before).expand(batch, -1, -1)
    text = language.embed_tokens(tokens).flatten(1, 2)
    hidden = torch.cat([ahead, visual.to(text.dtype), text], 1)
    seen = hidden.shape[1] - count * longest
    places = torch.arange(seen + longest, device=tokens.device)
    places = torch.cat([places[:seen], places[seen:].repeat(count)])[None]
    cos, sin = language.rotary_emb(hidden, places)
    mask = question_mask(count, longest, seen, hidden.device).to(hidden)
    for layer in language.layers:
        hidden = decoder_layer(layer, hidden, cos[:, None], sin[:, None], mask, seen)
    asked = hidden[:, seen:].reshape(-1, hidden.shape[2])[rows]
    return F.linear(rms_norm(asked, language.norm), language.embed_tokens.weight)
