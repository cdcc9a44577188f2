"""tpprof measures what visual token pruning really buys in a multimodal LLM: time beside FLOPs.

The library in five calls: `load` a model, make the `inputs` of a request, run one `forward` with
a method and look at its trace, `compare` methods and get the record that the command prints, or
`measure` callables of your own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .profiler.api import compare, forward, inputs, load, measure

__all__ = ["compare", "forward", "inputs", "load", "measure"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(".profiler.api", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
