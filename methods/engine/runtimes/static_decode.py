"""Decode over static buffers, step by step, each over exactly the keys that eager decode has.

The buffers have exactly the pruned length of each layer's cache plus room for the tokens to come:
the bytes of the eager cache after decode. They stay from request to request, beside the cache of
prefill, which is copied into them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..attention import Attention
from ..layer import PositionEmbeddings
from .capture import Cut
from .runtime import Runtime


@dataclass(frozen=True)
class DecodeForm:
    """What captured steps depend on: tokens cached per layer, which layers share positions
    (each layer's number among the distinct first positions), samples, and decode steps."""

    cached: tuple[int, ...]
    tables: tuple[int, ...]
    batch: int
    steps: int


class StaticDecode:
    """Greedy decode over static buffers; nothing in it makes the host wait or choose.

    keys, values: per layer [B, Hkv, cached + steps, head_dim].
    It is also the cache that the layers are given.
    """

    def __init__(
        self,
        runtime: Runtime,
        cache: Any,
        form: DecodeForm,
        tables: list[PositionEmbeddings],
        token: Tensor,
    ) -> None:
        self._runtime = runtime
        self._form = form
        self._attention = Attention(runtime.decoder.backend)
        self.keys = [_longer(layer.keys, form.steps) for layer in cache.layers]
        self.values = [_longer(layer.values, form.steps) for layer in cache.layers]
        self._tables = [(cos.clone(), sin.clone()) for cos, sin in tables]
        self._token = token.clone()
        self._step = 0

    def fill(self, cache: Any, tables: list[PositionEmbeddings], token: Tensor) -> None:
        """Begin a request: its cache, its positions and its first token [B, 1].

        The layers of `cache` hold the static buffers from then on.
        """
        for index, layer in enumerate(cache.layers):
            count = self._form.cached[index]
            for name, buffer in (("keys", self.keys[index]), ("values", self.values[index])):
                buffer[:, :, :count].copy_(getattr(layer, name))
                setattr(layer, name, buffer)
        for own, given in zip(self._tables, tables, strict=True):
            for mine, theirs in zip(own, given, strict=True):
                mine.copy_(theirs)
        self._token.copy_(token)

    def run(self, cut: Cut) -> tuple[list[Tensor], list[Tensor]]:
        """All steps, cut one from the next: logits [B, vocabulary] and tokens [B, 1] of each."""
        logits, tokens = list[Tensor](), [self._token]
        for step in range(self._form.steps):
            if step:
                cut()
            logits.append(self._logits(step, tokens[-1]))
            tokens.append(logits[-1].argmax(-1, keepdim=True))
        return logits, tokens[1:]

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *args: Any, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """Write [B, Hkv, 1, head_dim] and return all keys and values up to there, as a
        transformers cache."""
        end = self._form.cached[layer] + self._step + 1
        self.keys[layer][:, :, end - 1 : end].copy_(keys)
        self.values[layer][:, :, end - 1 : end].copy_(values)
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def _logits(self, step: int, token: Tensor) -> Tensor:
        form, decoder = self._form, self._runtime.decoder
        self._step = step
        tables = [(cos[:, step : step + 1], sin[:, step : step + 1]) for cos, sin in self._tables]
        hidden = decoder.embed(token)
        for index in range(len(form.cached)):
            hidden = self._runtime.layer(
                index,
                hidden,
                cache=self,
                position_embeddings=tables[form.tables[index]],
                attention=self._attention,
            )
        return decoder.head(hidden)[:, 0]


def _longer(tensor: Tensor, steps: int) -> Tensor:
    """Room [B, Hkv, cached + steps, head_dim] like `tensor`, which has the cached tokens."""
    batch, heads, cached, width = tensor.shape
    return tensor.new_zeros(batch, heads, cached + steps, width)
