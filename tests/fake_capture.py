"""Stands in for CUDA graphs on a CPU: operators are recorded with their tensors, and run again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tpprof.methods.engine.runtimes.capture import WARM_UPS, Cut, Replay

Result = TypeVar("Result")
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")


class Recording(TorchDispatchMode):
    """What a CUDA graph holds: kernels with the places of their tensors, no Python, no waits."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[list[Replay]] = [[]]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name, kwargs = func._schema.name.partition("::")[2], kwargs or {}
        if name.startswith(WAITS):
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        out = func(*args, **kwargs)
        # What is a view of something, or was written into, holds the new values by itself.
        fresh = [r.alias_info is None for r in func._schema.returns]

        def run() -> None:
            for new, result, given in zip(
                fresh, _listed(out), _listed(func(*args, **kwargs)), strict=True
            ):
                for mine, theirs in zip(tree_leaves(result), tree_leaves(given), strict=True):
                    if new and isinstance(mine, torch.Tensor):
                        mine.copy_(theirs)

        if any(fresh) or func._schema.is_mutable:
            self.pieces[-1].append(run)
        return out


def _listed(results: Any) -> tuple[Any, ...]:
    return results if isinstance(results, tuple) else (results,)


class FakeCapture:
    """One capture; `made` counts those of a test, and what was replayed of them."""

    def __init__(self, made: Captures) -> None:
        self._made = made

    def warm_up(self, work: Callable[[], object]) -> None:
        for _ in range(WARM_UPS):
            work()

    def chain(self, work: Callable[[Cut], Result]) -> tuple[Result, list[Replay]]:
        recording = Recording()
        with torch.no_grad(), recording:
            result = work(lambda: recording.pieces.append([]))
        return result, [self._replay(piece) for piece in recording.pieces]

    def hidden_bytes(self) -> int:
        return self._made.hidden_bytes

    def _replay(self, piece: list[Replay]) -> Replay:
        def replay() -> None:
            self._made.replays += 1
            with torch.no_grad():
                for operator in piece:
                    operator()

        return replay


class Captures:
    """Makes captures, as a runtime asks for them."""

    def __init__(self) -> None:
        self.replays = 0
        self.hidden_bytes = 0

    def __call__(self, device: torch.device) -> FakeCapture:
        return FakeCapture(self)
