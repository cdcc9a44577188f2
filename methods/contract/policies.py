"""The names under which a comparison runs a method: attention policies and runtimes."""

from __future__ import annotations

from typing import Literal

from .errors import InputError

Policy = Literal["rows", "maps", "published"]
POLICIES: tuple[Policy, ...] = ("rows", "maps", "published")
RuntimeName = Literal["eager", "graph", "compile"]
RUNTIMES: tuple[RuntimeName, ...] = ("eager", "graph", "compile")


def check_policy(name: str) -> Policy:
    """`name` if it is an attention policy; raises InputError with those that exist."""
    for policy in POLICIES:
        if name == policy:
            return policy
    raise InputError(f"unknown attention policy {name!r}; known: {', '.join(POLICIES)}")


def check_runtime(name: str) -> RuntimeName:
    """`name` if it is a runtime; raises InputError with those that exist."""
    for runtime in RUNTIMES:
        if name == runtime:
            return runtime
    raise InputError(f"unknown runtime {name!r}; known: {', '.join(RUNTIMES)}")
