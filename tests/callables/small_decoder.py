"""A decoder that generates, in torch alone: it runs in any Python that the probe runs in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

TOKENS, WIDTH, LAYERS = 48, 96, 3


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.down(torch.relu(self.up(hidden)))


class Walker(nn.Module):
    """Walks the layers, and keeps each one's input in the place of a key-value cache."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer() for _ in range(LAYERS)])

    def forward(self, hidden: Tensor, cache: list[Any]) -> Any:
        for index, layer in enumerate(self.layers):
            before = cache[index]
            cache[index] = hidden if before is None else torch.cat([before, hidden], 1)
            hidden = layer(hidden)
        return hidden, tuple((kept, kept) for kept in cache)


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(64, WIDTH)
        self.model = Walker()
        self.lm_head = nn.Linear(WIDTH, 64, bias=False)

    @torch.no_grad()
    def generate(self, input_ids: Tensor, max_new_tokens: int, **given: Any) -> Tensor:
        tokens: list[Tensor] = [input_ids]
        cache: list[Any] = [None] * LAYERS
        hidden = self.embed(input_ids)
        for _ in range(max_new_tokens):
            hidden, _ = self.model(hidden, cache)
            tokens.append(self.lm_head(hidden[:, -1:]).argmax(-1))
            hidden = self.embed(tokens[-1])
        return torch.cat(tokens, 1)


def model() -> Decoder:
    torch.manual_seed(0)
    return Decoder()


model.inputs = {"input_ids": torch.arange(TOKENS)[None]}  # type: ignore[attr-defined]
