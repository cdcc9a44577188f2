"""The decoder layers compiled by torch.compile, in prefill and decode alike.

All layers go through one compiled function, so that they share its graphs. The model keeps its
modules as they are.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...contract.errors import InputError, first_line
from ...contract.policies import RuntimeName
from ..attention import Attention, attend, in_force, tower_interface
from ..decoder import Decoder
from ..layer import PositionEmbeddings, call_layer
from .runtime import Result, Runtime

NAME = "tpprof-compiled"
SETTINGS = {
    # Every layer has its number as an attribute; specialised on it, each would be compiled anew.
    "allow_unspec_int_on_nn_module": True,
    # Beyond the limit torch runs eagerly and only logs it: raise instead. Scored layers share
    # transformers' frames with those of other runtimes, so the usual limit of 8 is too tight.
    "recompile_limit": 128,
    "accumulated_recompile_limit": 1024,
    "fail_on_recompile_limit_hit": True,
    "suppress_errors": False,
}


@dataclass
class Slot:
    """The keys and values of one layer, [B, Hkv, tokens, head_dim] each.

    transformers' cache would do, but its growing list of layers makes each layer a case apart.
    """

    keys: Tensor | None = None
    values: Tensor | None = None

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *args: Any, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """Append, and return all; as a transformers cache."""
        if self.keys is not None and self.values is not None:
            keys = torch.cat([self.keys, keys], 2)
            values = torch.cat([self.values, values], 2)
        self.keys, self.values = keys, values
        return keys, values


@dataclass
class Slots:
    layers: list[Slot]


@dataclass
class Counter:
    """A compiler that counts its graphs. It knows no model: torch keeps it for good."""

    backend: str | Callable[..., Any]
    graphs: int = 0
    compiler: Callable[..., Any] | None = field(default=None, init=False)

    def __call__(self, module: Any, inputs: Any) -> Any:
        if self.compiler is None:
            self.compiler = _lookup(self.backend)
        self.graphs += 1
        return self.compiler(module, inputs)


class CompileRuntime(Runtime):
    """torch.compile of the decoder layers; vision, embedding and head run eagerly.

    graphs: graphs compiled so far. recompiles: those of them compiled after the first request.
    graph_breaks: places where a compiled layer goes back to Python, as the compiler met them;
    layers whose attention is read have some. `backend` is torch.compile's.
    """

    name: RuntimeName = "compile"

    def __init__(self, decoder: Decoder, *, backend: str | Callable[..., Any] = "inductor") -> None:
        super().__init__(decoder)
        self.graphs = self.recompiles = self.graph_breaks = 0
        self._counter = Counter(backend)
        self._compiled: Callable[..., Tensor] | None = None
        self._requests = 0

    @property
    def setups(self) -> dict[str, int]:
        return {
            "graphs": self._counter.graphs,
            "recompiles": self.recompiles,
            "graph breaks": self.graph_breaks,
        }

    def request(self, once: Callable[[], Result]) -> Result:
        """What `once` gives; where the compiler fails, what it gives eagerly from the start."""
        if self.fallback:
            return once()
        try:
            return self._compiled_request(once)
        except InputError:
            raise
        except Exception as error:
            self.fallback = first_line(getattr(error, "inner_exception", None) or error)
        try:
            return once()
        except Exception:
            self.fallback = ""  # it was not the compiler
            raise

    def _compiled_request(self, once: Callable[[], Result]) -> Result:
        from torch._dynamo import config

        breaks, graphs = _breaks(), self._counter.graphs
        if self._compiled is None:
            self._compiled = torch.compile(_own_code(call_layer), backend=self._counter)
        with config.patch(SETTINGS):
            result = once()
        self.graphs = self._counter.graphs
        self.graph_breaks += _breaks() - breaks
        if self._requests:
            self.recompiles += self.graphs - graphs
        self._requests += 1
        return result

    @contextmanager
    def in_force(self) -> Iterator[None]:
        if self.fallback:
            with super().in_force():
                yield
            return
        with (
            in_force(self.decoder.vision_config, name=tower_interface(self.decoder.backend)),
            in_force(self.decoder.text_config, name=NAME, function=_attend()),
        ):
            yield

    def new_cache(self) -> Any:
        if self.fallback:
            return super().new_cache()
        return Slots([Slot() for _ in self.decoder.layers])

    def layer(
        self,
        index: int,
        hidden: Tensor,
        *,
        cache: Any,
        position_embeddings: PositionEmbeddings,
        attention: Attention,
    ) -> Tensor:
        if self.fallback or self._compiled is None:
            return super().layer(
                index,
                hidden,
                cache=cache,
                position_embeddings=position_embeddings,
                attention=attention,
            )
        layer, slot = self.decoder.layers[index], cache.layers[index]
        if hidden.shape[1] > 1:
            _may_vary(1, hidden, *position_embeddings)
        elif slot.keys is not None:
            _may_vary(2, slot.keys, slot.values)
        return self._compiled(layer, hidden, slot, position_embeddings, attention)


def _may_vary(dimension: int, *tensors: Tensor) -> None:
    """Compile for any length along `dimension`; all else is fixed until it is seen to change."""
    for tensor in tensors:
        torch._dynamo.maybe_mark_dynamic(tensor, dimension)


def _own_code(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A copy with a code object of its own: torch keeps graphs, and their limit, per code."""
    original: Any = function
    return types.FunctionType(original.__code__.replace(), original.__globals__)


@functools.cache
def _attend() -> Callable[..., Any]:
    """`attend` for compiled layers: the kernel alone is compiled.

    Where rows or maps are read, it stays Python: the laps within must be told as they happen.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    kernel: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS["sdpa"]
    in_python: Callable[..., Any] = torch.compiler.disable(attend)  # type: ignore[no-untyped-call]

    def attend_compiled(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *,
        tpprof: Attention,
        **options: Any,
    ) -> Any:
        if tpprof.reading is None and not tpprof.use_map and tpprof.backend.startswith("sdpa"):
            return kernel(module, query, key, value, attention_mask, **options)
        return in_python(module, query, key, value, attention_mask, tpprof=tpprof, **options)

    return attend_compiled


def _lookup(backend: str | Callable[..., Any]) -> Callable[..., Any]:
    if not isinstance(backend, str):
        return backend
    from torch._dynamo.backends.registry import lookup_backend

    found: Callable[..., Any] = lookup_backend(backend)
    return found


def _breaks() -> int:
    from torch._dynamo.utils import counters

    return sum(counters["graph_break"].values())
