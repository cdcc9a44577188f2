"""Devices that a machine need not have: tensors that say they lie on `cpu:0`, `cpu:1`, ... and
refuse to be used together with those of another one, as tensors of two GPUs do.

torch knows the CPU under any index; a `Placed` tensor holds an ordinary one, and reports such a
device. Operators see that all their tensors lie on one device, and compute as ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

MOVES = ("_to_copy", "copy_")
"""Operators that take tensors of two devices."""
WHOLE = (torch.linalg.matrix_rank,)
"""Functions that make tensors on `cpu` on the way, whatever its index."""


class Placed(Tensor):
    """A tensor that lies on `device`, as far as anyone sees."""

    own: Tensor

    @staticmethod
    def __new__(cls, own: Tensor, device: torch.device) -> Placed:
        made: Placed = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            own.shape,
            strides=own.stride(),
            storage_offset=own.storage_offset(),
            dtype=own.dtype,
            device=device,
        )
        made.own = own
        return made

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        given = [leaf for leaf in tree_leaves((args, named)) if isinstance(leaf, Tensor)]
        devices = {_named(leaf.device) for leaf in given if leaf.dim() or isinstance(leaf, Placed)}
        if len(devices) > 1 and func._opname not in MOVES:
            raise RuntimeError(f"{func} is given tensors on {sorted(devices)}")
        to = named.get("device")
        if to is not None:
            named["device"] = torch.device("cpu")
        placed = next(leaf.device for leaf in given if isinstance(leaf, Placed))
        where = placed if to is None else to
        owns = {id(leaf.own): leaf for leaf in given if isinstance(leaf, Placed)}
        result = func(*tree_map(_own, args), **tree_map(_own, named))
        if func._opname == "_to_copy" and to is not None:
            MOVED[str(placed), str(where)] += 1

        def wrapped(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            same = owns.get(id(value))  # of what was changed in place
            return placed_on(value, where) if same is None else same

        return tree_map(wrapped, result)

    def tolist(self) -> Any:
        return self.own.tolist()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.own.untyped_storage()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("a tensor of a device is no array: bring it to the host first")


MOVED: Counter[tuple[str, str]] = Counter()
"""How often a tensor went from one device to another."""


def placed_on(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on that device; on the host, as it is."""
    return tensor if device.index is None else Placed(tensor, device)


class Devices(TorchFunctionMode):
    """While it is in force, what is made on `cpu:0`, `cpu:1`, ... or moved there lies there."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        named = dict(kwargs or {})
        device = named.get("device")
        device = torch.device(device) if isinstance(device, str) else device
        if func in WHOLE:
            return _on(func(*tree_map(_own, args), **tree_map(_own, named)), args[0].device)
        if func is Tensor.to and not isinstance(args[0], Placed):
            listed = [*args[1:], device]
            device = next((each for each in listed if isinstance(each, torch.device)), None)
            return _on(func(*args, **named), device)
        if isinstance(device, torch.device) and not any(isinstance(a, Placed) for a in args):
            return _on(func(*args, **named), device)
        return func(*args, **named)


def _on(value: Any, device: torch.device | None) -> Any:
    plain = isinstance(value, Tensor) and not isinstance(value, Placed)
    return placed_on(value, device) if plain and device is not None else value


def _own(value: Any) -> Any:
    return value.own if isinstance(value, Placed) else value


def _named(device: torch.device) -> str:
    return str(device) if device.index is not None else "the host"
