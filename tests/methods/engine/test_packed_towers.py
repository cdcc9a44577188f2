"""Towers under FlashAttention: transformers hands all pictures or windows over in one call, and
what is read of them is read one by one. A stand-in computes what that kernel would."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from micro_models import load
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import tpprof
from tpprof.methods.contract.policies import POLICIES, Policy
from tpprof.methods.engine import attention
from tpprof.profiler.models.model import Model

CALLS: list[tuple[int, ...]] = []
"""The lengths that each packed call was given."""


def flash(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attention in float32, within the ends that it is given."""
    ends = options.get("cu_seq_lens_q")
    lengths = [query.shape[2]]
    if ends is not None:
        assert options["max_length_q"] == int(ends.diff().max())
        lengths = ends.diff().tolist()
        CALLS.append(tuple(lengths))
    causal = module.is_causal and query.shape[2] > 1
    parts = [
        scaled_dot_product_attention(
            *part, is_causal=causal, scale=options["scaling"], enable_gqa=True
        )
        for part in zip(
            query.split(lengths, 2),
            key.split(lengths if ends is not None else key.shape[2], 2),
            value.split(lengths if ends is not None else value.shape[2], 2),
            strict=True,
        )
    ]
    return torch.cat(parts, 2).transpose(1, 2), None


@pytest.fixture(params=["qwen2-vl", "qwen2.5-vl", "qwen3-vl"])
def pair(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Model, Model]:
    """A micro model, and the same under the stand-in."""
    return packed_too(load(request.param), monkeypatch)


def packed_too(model: Model, monkeypatch: pytest.MonkeyPatch) -> tuple[Model, Model]:
    packed = copy.copy(model)
    packed.backend = "flash_attention_2"
    own = attention._backend
    monkeypatch.setattr(attention, "_backend", lambda name: flash if "flash" in name else own(name))
    CALLS.clear()
    return model, packed


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("spec", ["vanilla", "fastervlm:keep=9", "visionzip:keep=9"])
def test_one_call_a_layer_gives_the_same(
    pair: tuple[Model, Model], spec: str, policy: Policy
) -> None:
    model, packed = pair
    given = {"image_size": (168, 140), "batch_size": 2, "new_tokens": 2}
    wanted = tpprof.forward(model, tpprof.inputs(model, **given), spec, attention=policy)
    inputs = tpprof.inputs(packed, **given)
    found = tpprof.forward(packed, inputs, spec, attention=policy)
    assert found.ledger == wanted.ledger
    assert [kept.tolist() for kept in found.kept] == [kept.tolist() for kept in wanted.kept]
    torch.testing.assert_close(found.logits, wanted.logits, rtol=0, atol=1e-4)
    encoder = inputs.request.tower
    plain = [n for n in range(encoder.layers) if n not in found.ledger.encoder_maps]
    assert [2 * (encoder.lengths(n) or (encoder.patches,)) for n in plain] == CALLS


@pytest.mark.parametrize("name", ["llava", "internvl", "llava-onevision"])
@pytest.mark.parametrize("spec", ["vanilla", "fastervlm:keep=9"])
def test_towers_of_tiles_are_called_as_a_batch(
    name: str, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No lengths are given: each tile attends to itself."""
    model, packed = packed_too(load(name), monkeypatch)
    given = {"image_size": (168, 140), "batch_size": 2, "new_tokens": 2}
    wanted = tpprof.forward(model, tpprof.inputs(model, **given), spec)
    found = tpprof.forward(packed, tpprof.inputs(packed, **given), spec)
    assert [kept.tolist() for kept in found.kept] == [kept.tolist() for kept in wanted.kept]
    torch.testing.assert_close(found.logits, wanted.logits, rtol=0, atol=1e-4)
    assert CALLS == []
