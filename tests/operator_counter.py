"""Work as torch shows it: every operator of a request, by part and operator class."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.module_tracker import ModuleTracker

aten = torch.ops.aten
PROJECTIONS = (
    *("q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "qkv", "projection_layer"),
    *("query", "key", "value", "dense"),  # DINOv2 in transformers 5.17
)
PRODUCTS = (aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.convolution)
KERNEL = aten._scaled_dot_product_flash_attention_for_cpu
FREE = (aten.detach, aten._unsafe_view, aten.lift_fresh, aten.empty, aten.empty_like)
Key = tuple[str, str, int | None, str]


def sdpa(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kw: Any) -> int:
    """torch counts 0 for attention on the CPU, and before 2.12 refuses grouped heads: the scores
    [B, H, q, k] and the output [B, H, q, d], each element a sum of products."""
    scores = math.prod((*query[:3], key[2]))
    return 2 * scores * query[3] + 2 * scores * value[3]


MAPPING: dict[Any, Callable[..., Any]] = {KERNEL: sdpa}


@dataclass(frozen=True)
class Seen:
    """What was counted of one operator class in one part."""

    flops: int = 0
    read: int = 0
    written: int = 0
    launches: int = 0

    def __add__(self, other: Seen) -> Seen:
        return Seen(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass
class Counting(TorchDispatchMode):
    """Counts while it is on; hand `lap` to the engine. Rotary tables are left out."""

    seen: dict[Key, Seen] = field(default_factory=dict)
    _open: dict[str, Seen] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()
        self._modules = ModuleTracker()

    def __enter__(self) -> Counting:
        self._modules.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *args: Any) -> None:
        super().__exit__(*args)
        self._modules.__exit__(*args)

    def lap(self, phase: str, part: str, index: int | None = None) -> None:
        whole = {"score": "rows", "select": "select", "compress": "select"}.get(part)
        for operator, seen in self._open.items():
            key = (phase, part, index, whole or operator)
            self.seen[key] = self.seen.get(key, Seen()) + seen
        self._open = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        home = max(self._modules.parents, key=lambda name: name.count(".") + (name != "Global"))
        if func.is_view or packet in FREE or home.endswith("RotaryEmbedding"):
            return out
        flops, result = 0, out
        if packet is KERNEL:
            flops, result = sdpa(*(given.shape for given in args[:3])), out[0]
        elif packet in flop_registry:
            flops = flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        seen = Seen(flops, _bytes((args, kwargs)), _bytes(result), 1)
        name = self._operator(home, packet)
        self._open[name] = self._open.get(name, Seen()) + seen
        return out

    def _operator(self, home: str, packet: Any) -> str:
        """The operator class, but for what a score or a selection does."""
        leaf, product = home.rpartition(".")[2], packet in PRODUCTS
        if packet is KERNEL:
            return "attention"
        if not product:
            return "elementwise"
        if leaf in PROJECTIONS:
            return "projections"
        if leaf in ("proj", "patch_embedding", "projection"):
            return "projections" if home.endswith("attn.proj") else "patch embedding"
        if "PatchMerger" in home or "Projector" in home:
            return "projector"
        if leaf.removeprefix("linear_") in ("gate_proj", "up_proj", "down_proj", "fc1", "fc2"):
            return "ffn"
        return "head" if home == "Linear" else "attention map"


def _bytes(values: Any) -> int:
    tensors = {id(leaf): leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)}
    return sum(
        min(t.numel() * t.element_size(), t.untyped_storage().nbytes()) for t in tensors.values()
    )
