"""How often the code of a method makes the host wait for a value of a tensor, and on which line.

Seen on a CPU too, where nothing waits: on a GPU each such read empties the queue.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

OPERATORS = (
    "_local_scalar_dense",  # item, bool, int, float, and whatever asks whether a tensor is true
    "nonzero",
    "masked_select",
    "unique",
    "_unique",
    "equal",
    "argwhere",
    "bincount",
)
"""Beginnings of operators whose result, or its size, the host has to know."""
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
COPIES: tuple[Callable[..., Any], ...] = (Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__array__)
"""What a CPU does without an operator, for its values are there already."""


class HostWaits:
    """Counts while it is on, as a context manager; `seen`: reads by file and line.

    files: the source files of the method, of whose lines the innermost is named.
    """

    def __init__(self, files: Collection[str]) -> None:
        self.files = files
        self.seen: Counter[str] = Counter()
        self._modes = (_Operators(self._note), _Copies(self._note))

    def __enter__(self) -> HostWaits:
        for mode in self._modes:
            mode.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)  # type: ignore[no-untyped-call]

    def _note(self) -> None:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            name = frame.f_code.co_filename
            if name in self.files:
                self.seen[f"{Path(name).name} line {frame.f_lineno}"] += 1
                return
            frame = frame.f_back


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, note: Callable[[], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.note = note

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func._opname
        given = kwargs or {}
        if (
            name.startswith(OPERATORS)
            or (name in INDEXING and _masks(args))
            or (name == "repeat_interleave" and given.get("output_size") is None)
        ):
            self.note()
        return func(*args, **given)


class _Copies(TorchFunctionMode):
    def __init__(self, note: Callable[[], None]) -> None:
        super().__init__()
        self.note = note

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        targets = [*args[1:2], given.get("device")]
        waits = func is Tensor.to and not given.get("non_blocking")
        if func in COPIES or (waits and any(map(_is_cpu, targets))):
            self.note()
        return func(*args, **given)


def _is_cpu(target: object) -> bool:
    """Whether `Tensor.to` is told to go to the host, by name. Of a tensor to be like, nobody can
    say on a CPU whether it would be on the host elsewhere."""
    return isinstance(target, (str, torch.device)) and torch.device(target).type == "cpu"


def _masks(args: Any) -> bool:
    """Whether a place is given by flags: how many of them are set is known to the device alone."""
    flags = (torch.bool, torch.uint8)
    return any(isinstance(index, Tensor) and index.dtype in flags for index in args[1] or ())
