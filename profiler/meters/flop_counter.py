"""FLOPs of a request as torch counts them, by phase. Needs torch alone: it runs in probes too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...methods.engine.context import Lap

KERNELS = (
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_fused_attention_overrideable",
)
"""torch's attention operators, all of which take queries, keys and values first."""
LIBRARIES = ("aten", "mkldnn", "quantized", "prims")
HARMLESS = (
    "prim",
    "profiler",
    "debugprims",
    "image",
    "torchvision",
    "rngprims",
    "c10d",
    "_c10d_functional",
)
PRODUCTS = frozenset(
    [
        "mm",
        "bmm",
        "addmm",
        "baddbmm",
        "addbmm",
        "matmul",
        "mv",
        "addmv",
        "dot",
        "vdot",
        "linear",
        "bilinear",
        "trilinear",
        "einsum",
        "attention",
        "attn",
        "transformer",
        "cdist",
        "euclidean",
        "rnn",
        "lstm",
        "gru",
    ]
)
"""Words in names of operators that multiply matrices, beside those that begin with `conv`.
Factorisations (SVD, QR) count on neither side."""


@dataclass
class CountedFlops:
    """FLOPs as torch counts them. by_phase: all; tables: those of rotary tables among them.
    decisions: those of parts `select` among them. uncounted: operators that ran, may hold products,
    and of which no FLOPs are known."""

    by_phase: dict[str, int]
    tables: dict[str, int]
    decisions: int
    uncounted: list[str]


def flops(request: Callable[[Lap], object]) -> CountedFlops:
    """Run `request` once under torch's FlopCounterMode, attention dense."""
    import torch
    from torch.utils import flop_counter
    from torch.utils._python_dispatch import TorchDispatchMode

    aten: Any = torch.ops.aten
    formulas = {**dict.fromkeys(KERNELS, _attention_flops), **VECTORS}
    known = {getattr(aten, name): of for name, of in formulas.items() if hasattr(aten, name)}
    counter: Any = flop_counter.FlopCounterMode(display=False, custom_mapping=known)
    uncounted: dict[str, None] = {}

    class Uncounted(TorchDispatchMode):  # type: ignore[no-untyped-call]
        """Stands below the counter, which takes apart what it can."""

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            if func._overloadpacket not in counter.flop_registry and may_hold_products(str(func)):
                uncounted[str(func).rpartition(".")[0]] = None
            return func(*args, **(kwargs or {}))

    found: dict[str, int] = {}
    tables: dict[str, int] = {}
    decisions = 0
    with Uncounted(), counter:  # type: ignore[no-untyped-call]

        def lap(phase: str, part: str, index: int | None = None) -> None:
            nonlocal decisions
            new = counter.get_total_flops() - sum(found.values())
            found[phase] = found.get(phase, 0) + new
            table = _table_flops(counter.get_flop_counts()) - sum(tables.values())
            tables[phase] = tables.get(phase, 0) + table
            if part == "select":
                decisions += new

        request(lap)
    return CountedFlops(_positive(found), _positive(tables), decisions, sorted(uncounted))


def may_hold_products(operator: str) -> bool:
    """Whether an operator (`aten.mm.default`) may multiply matrices, by its name; of one that is
    not torch's own, nobody knows."""
    library, _, name = operator.partition(".")
    if library not in LIBRARIES:
        return library not in HARMLESS
    words = name.partition(".")[0].split("_")
    return words[0] != "upsample" and any(w in PRODUCTS or w.startswith("conv") for w in words)


def _table_flops(counts: dict[str, dict[Any, int]]) -> int:
    """FLOPs of the modules that make rotary tables, from those by module: torch names a module by
    its class where it is called by itself, and by its place where its parent was."""
    names = ("RotaryEmbedding", "rotary_emb", "rotary_pos_emb")
    named = [found for module, found in counts.items() if module.endswith(names)]
    return sum(sum(found.values()) for found in named)


def _positive(found: dict[str, int]) -> dict[str, int]:
    return {phase: count for phase, count in found.items() if count}


def _matrix_vector_flops(matrix: Any, *given: Any, out_shape: Any = None, **more: Any) -> int:
    """2 * rows * columns of a matrix [rows, columns] times a vector."""
    return int(2 * matrix[0] * matrix[1])


def _added_vector_flops(start: Any, matrix: Any, *given: Any, **more: Any) -> int:
    """As of a matrix times a vector, which are added to a first one."""
    return _matrix_vector_flops(matrix)


def _dot_flops(one: Any, other: Any, *given: Any, **more: Any) -> int:
    """2 * n of two vectors of n elements."""
    return int(2 * one[0])


VECTORS: dict[str, Callable[..., int]] = {
    "mv": _matrix_vector_flops,
    "addmv": _added_vector_flops,
    "dot": _dot_flops,
    "vdot": _dot_flops,
}
"""Products of which torch counts no FLOPs, though they are plain."""


def _attention_flops(
    query: Any, key: Any, value: Any, *given: Any, out_shape: Any = None, **more: Any
) -> int:
    """Both products of dense attention, from the shapes of its tensors [B, heads, tokens, width]:
    2 * B * H * queries * keys * (width of keys + width of values), H heads of the queries.

    torch's own formula refuses grouped heads up to 2.11, and of attention on a CPU it has none.
    """
    batch, heads, queries, width = query
    return int(2 * batch * heads * queries * key[2] * (width + value[3]))
