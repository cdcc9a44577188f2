"""Low-rank changes of the language model's products: W + 2 B A (https://arxiv.org/abs/2106.09685)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..trained import RANKS, SCALE


class Lora(nn.Module):
    """A weight [rows, columns] with its change, in `dtype`."""

    def __init__(self, rows: int, columns: int, rank: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.a = nn.Parameter(torch.randn(rank, columns) * columns**-0.5)
        self.b = nn.Parameter(torch.zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        changed = torch.addmm(weight, self.b, self.a, alpha=SCALE)
        return changed.to(self.dtype)


def add(language: Any, dtype: torch.dtype) -> list[nn.Parameter]:
    """Give all products of a LlamaModel their changes, which alone are trained, and have it compute
    in `dtype`; its own weights stay in float32. Returns what is trained."""
    language.requires_grad_(False)
    trained: list[nn.Parameter] = []
    for layer in language.layers:
        for name, rank in RANKS.items():
            product = layer.get_submodule(name)
            lora = Lora(product.out_features, product.in_features, rank, dtype).to(
                product.weight.device
            )
            parametrize.register_parametrization(product, "weight", lora, unsafe=True)
            product.parametrizations.weight.original.requires_grad_(False)
            trained += [lora.a, lora.b]
        layer.input_layernorm.to(dtype)
        layer.post_attention_layernorm.to(dtype)
    language.norm.to(dtype)
    language.embed_tokens.to(dtype)
    return trained


def changes(language: Any) -> dict[str, Tensor]:
    """The two factors of each change, by the name of its product."""
    found = {}
    for index, layer in enumerate(language.layers):
        for name in RANKS:
            lora = layer.get_submodule(name).parametrizations.weight[0]
            found[f"layers.{index}.{name}.a"] = lora.a.detach()
            found[f"layers.{index}.{name}.b"] = lora.b.detach()
    return found
