"""Runtimes by name."""

from __future__ import annotations

from ...contract.policies import check_runtime
from ..decoder import Decoder
from .runtime import Runtime


def make_runtime(name: str, decoder: Decoder) -> Runtime:
    """A runtime for one series of requests; raises InputError for an unknown name."""
    checked = check_runtime(name)
    if checked == "graph":
        from .graph import GraphRuntime

        return GraphRuntime(decoder)
    if checked == "compile":
        from .compiled import CompileRuntime

        return CompileRuntime(decoder)
    return Runtime(decoder)
