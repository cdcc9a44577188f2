"""Random weights: module by module on the device itself, so that no more than one module is ever
whole there where ranks share the weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .pipeline import Pipeline, move
from .spread import Sharding, shard_of


def drawn(
    kind: Any,
    config: Any,
    *,
    device: torch.device,
    dtype: torch.dtype,
    attention: str,
    seed: int,
    spread: Sharding | None = None,
    pipeline: Pipeline | None = None,
) -> Any:
    """A model of the transformers class `kind` with the weights that `seed` draws: the same, shard
    by shard, over however many ranks they are spread, and over the devices of a pipeline, of which
    `device` is the first: there all are drawn. attention: as transformers names it."""
    with torch.device("meta"):
        module = kind._from_config(config, dtype=dtype, attn_implementation=attention)
    if spread is not None:
        spread.apply(module)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad(), device:
        torch.manual_seed(seed)
        places = {} if pipeline is None else pipeline.places(module)
        for part, owner in _parts(module, module):
            _draw(part, owner, device)
            if part in places:
                move(part, places[part])
    module.tie_weights()
    return module


def _parts(module: nn.Module, owner: Any) -> Iterator[tuple[nn.Module, Any]]:
    """Each module behind those inside it, and the transformers model that knows how to initialise
    it, as transformers goes through them."""
    from transformers import PreTrainedModel

    for child in module.children():
        yield from _parts(child, child if isinstance(child, PreTrainedModel) else owner)
    yield module, owner


def _draw(part: nn.Module, owner: Any, device: torch.device) -> None:
    """Give a module's own tensors memory and values; of those that are spread, keep this rank's
    share."""
    planned = {name: weight for name, weight in part._parameters.items() if weight is not None}
    for name, weight in planned.items():
        whole = torch.empty(weight.shape, dtype=weight.dtype, device=device)
        part._parameters[name] = nn.Parameter(whole, requires_grad=False)
    for name, buffer in part._buffers.items():
        if buffer is not None and buffer.is_meta:
            part._buffers[name] = torch.empty_like(buffer, device=device)
    owner._init_weights(part)
    for name, weight in planned.items():
        part._parameters[name] = shard_of(part._parameters[name], weight)
