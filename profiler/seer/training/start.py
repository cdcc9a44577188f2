"""The weights that training starts from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..model import new_module

PERIODS = 4 * 16 ** (np.arange(12) / 11)
"""Wavelengths of the positions, in patches."""
CHOSEN = (0, 1, 2, 4, 6, 9)
"""Those by which the heads of the first layers look aside."""
OFFSETS = (
    ((1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)),
    ((1.0, 1.0), (-1.0, 1.0), (1.0, -1.0), (-1.0, -1.0)),
    ((2.5, 0.0), (-2.5, 0.0), (0.0, 2.5), (0.0, -2.5)),
)
"""Columns and rows to the patch at which each head of the first three layers looks at the start."""
SHARPNESS = 1.9  # of these heads


def starting_module(seed: int) -> Any:
    """A new model: weights of unit gain, fixed positions in the tower, heads that look aside, and
    a decoder whose keys are its queries, so that a token attends to its like."""
    torch.manual_seed(seed)
    module = new_module()
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Linear):
                part.weight.normal_(0, part.in_features**-0.5)
                if part.bias is not None:
                    part.bias.zero_()
        _start_tower(module.model.vision_tower)
        _start_decoder(module.model.language_model)
    module.tie_weights()
    return module


def saved_module(folder: Path) -> Any:
    """The model as an earlier training left it."""
    from transformers import LlavaForConditionalGeneration

    return LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)


def _start_decoder(language: Any) -> None:
    language.embed_tokens.weight.normal_()
    language.norm.weight.fill_(0.1)  # the head is the embedding: logits of about 1
    scale = (2 * len(language.layers)) ** -0.5
    for layer in language.layers:
        layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
        layer.self_attn.o_proj.weight.mul_(scale)
        layer.mlp.down_proj.weight.mul_(scale)


def _start_tower(vision: Any) -> None:
    embeddings, layers = vision.embeddings, vision.encoder.layers
    width = embeddings.class_embedding.shape[0]
    side = int((len(embeddings.position_embedding.weight) - 1) ** 0.5)
    patches = embeddings.patch_embedding.weight
    patches.zero_()
    patches[: width // 2].normal_(0, 2.5 * patches[0].numel() ** -0.5)
    embeddings.class_embedding.normal_()
    embeddings.position_embedding.weight.zero_()
    embeddings.position_embedding.weight[1:, width // 2 :] = _positions(side)
    scale = (2 * len(layers)) ** -0.5
    for layer in layers:
        layer.self_attn.out_proj.weight.mul_(scale)
        layer.mlp.fc2.weight.mul_(scale)
    for layer, offsets in zip(layers, OFFSETS, strict=False):
        _look_aside(layer.self_attn, offsets, width)


def _positions(side: int) -> Tensor:
    """[side * side, 48]: cosine and sine of the column, then of the row, at each wavelength."""
    rows, columns = np.divmod(np.arange(side * side), side)
    parts: list[NDArray[np.float64]] = []
    for place in (columns, rows):
        for period in PERIODS:
            turn = 2 * math.pi * place / period
            parts += [np.cos(turn), np.sin(turn)]
    return torch.tensor(math.sqrt(2) * np.stack(parts, 1), dtype=torch.float32)


def _look_aside(attention: Any, offsets: tuple[tuple[float, float], ...], width: int) -> None:
    """Queries that turn a patch's position to that of the patch at an offset; keys as they are."""
    size = width // len(offsets)
    query, key = attention.q_proj.weight, attention.k_proj.weight
    query.mul_(0.1)
    key.mul_(0.1)
    for head, offset in enumerate(offsets):
        row = head * size
        for axis, distance in enumerate(offset):
            for wave in CHOSEN:
                column = width // 2 + 2 * (axis * len(PERIODS) + wave)
                turn = 2 * math.pi * distance / PERIODS[wave]
                cos, sin = math.cos(turn), math.sin(turn)
                turned = torch.tensor([[cos, -sin], [sin, cos]])
                query[row : row + 2, column : column + 2] += SHARPNESS * turned
                key[row : row + 2, column : column + 2] += SHARPNESS * torch.eye(2)
                row += 2
