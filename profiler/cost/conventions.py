"""How others count: named conventions for FLOPs and KV bytes, each with its source.

None of them is tpprof's own (see `request`): they say what a published figure may have meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ...methods.contract.errors import InputError
from ...methods.contract.request import Request
from ...methods.engine.ledger import Ledger
from ..models.shapes import Shape
from .work import Item

KV_MB_PER_TOKEN = 0.525
"""The factor behind the KV column of the paper's Table 7: 2880 tokens are its 1512 MB. In float16,
keys and values of Vicuna-7B take 2 * 32 * 4096 * 2 = 524,288 bytes a token."""


@dataclass(frozen=True)
class Counting:
    """What a convention is given: the request as it was planned, and the nominal budget of the
    method in visual tokens (None where it has none)."""

    shape: Shape
    request: Request
    ledger: Ledger
    items: list[Item]
    budget: int | None


@dataclass(frozen=True)
class Convention:
    """One way to count. `unit`: FLOPs, MACs or bytes; `about`: the formula and what it leaves out;
    `source`: where it is from."""

    name: str
    unit: str
    about: str
    source: str
    count: Callable[[Counting], float]


def convention_named(name: str) -> Convention:
    """The convention `name`; raises InputError with those that exist."""
    if name not in CONVENTIONS:
        raise InputError(f"unknown convention {name!r}; known: {', '.join(CONVENTIONS)}")
    return CONVENTIONS[name]


def _default(given: Counting) -> float:
    return sum(item.work.flops for item in given.items)


def _prefill(given: Counting) -> float:
    return sum(item.work.flops for item in given.items if item.phase == "prefill")


def _causal(given: Counting) -> float:
    return sum(item.work.causal_flops for item in given.items)


def _fastv(given: Counting) -> float:
    return _per_layer(given.shape, given.ledger.tokens, ffn=2)


def _sparsevlm(given: Counting) -> float:
    return _per_layer(given.shape, given.ledger.tokens, ffn=3)


def _per_layer(shape: Shape, tokens: Iterable[int], ffn: int) -> float:
    """Sum over layers of 4nd^2 + 2n^2d + ffn * ndm, n tokens entering a layer, text included."""
    width, inner = shape.text.hidden, shape.text.intermediate
    return sum(4 * n * width**2 + 2 * n**2 * width + ffn * n * width * inner for n in tokens)


def _paper_kv(given: Counting) -> float:
    budget = given.request.visual if given.budget is None else given.budget
    return KV_MB_PER_TOKEN * 1e6 * budget


CONVENTIONS = {
    convention_.name: convention_
    for convention_ in (
        Convention(
            "default",
            "FLOPs",
            "whole request, 1 MAC = 2 FLOPs, dense attention",
            "what torch's FlopCounterMode counts",
            _default,
        ),
        Convention(
            "prefill",
            "FLOPs",
            "as default, the decoder layers of prefill alone",
            "what torch's FlopCounterMode counts",
            _prefill,
        ),
        Convention(
            "causal",
            "FLOPs",
            "as default, without the half of attention that causality masks",
            "what a flash kernel computes",
            _causal,
        ),
        Convention(
            "fastv",
            "MACs",
            "prefill, per layer 4nd^2 + 2n^2d + 2ndm: two FFN matrices of three",
            "FastV, arXiv 2403.06764, section 4",
            _fastv,
        ),
        Convention(
            "sparsevlm",
            "MACs",
            "prefill, per layer 4nd^2 + 2n^2d + 3ndm, text included",
            "Gumpest/SparseVLMs, modelling_sparse_llama.py",
            _sparsevlm,
        ),
        Convention(
            "paper-kv",
            "bytes",
            "0.525 MB times the nominal budget of visual tokens, every layer",
            "arXiv 2502.11501, Table 7",
            _paper_kv,
        ),
    )
}
