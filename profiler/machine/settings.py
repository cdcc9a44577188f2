"""Settings of the process that a request could leave changed: how each is read and put back."""

from __future__ import annotations

import functools
import gc
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor

HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
)
"""The tables of torch that hold hooks of all modules."""


@dataclass(frozen=True)
class Setting:
    """A setting of the process: what it is called, how it is read, how it is put back."""

    name: str
    get: Callable[[], Any]
    put: Callable[[Any], object]


def _deterministic(state: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(state[0], warn_only=state[1])


def _bytes(state: Tensor) -> bytes:
    return state.numpy().tobytes()


def _state(given: bytes) -> Tensor:
    return torch.frombuffer(bytearray(given), dtype=torch.uint8)


def _cuda_state() -> bytes:
    """Of the current device; asking for it must not be what makes a CUDA context."""
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return _bytes(torch.cuda.get_rng_state()) if started else b""


def _put_cuda_state(state: bytes) -> None:
    if state:
        torch.cuda.set_rng_state(_state(state))


def _numpy_state() -> tuple[Any, ...]:
    name, keys, *rest = numpy.random.get_state()
    return (name, tuple(keys), *rest)


def _collection() -> tuple[bool, tuple[int, ...]]:
    return gc.isenabled(), gc.get_threshold()


def _put_collection(state: tuple[bool, tuple[int, ...]]) -> None:
    enabled, thresholds = state
    (gc.enable if enabled else gc.disable)()
    gc.set_threshold(*thresholds)


def _hooks() -> list[dict[Any, Any]]:
    """What runs at each module's forward or backward pass, for all modules."""
    return [dict(vars(torch.nn.modules.module)[name]) for name in HOOKS]


def _put_hooks(state: list[dict[Any, Any]]) -> None:
    for name, hooks in zip(HOOKS, state, strict=True):
        table = vars(torch.nn.modules.module)[name]
        table.clear()
        table.update(hooks)


SETTINGS = (
    Setting("the default dtype", torch.get_default_dtype, torch.set_default_dtype),
    Setting(
        "the default device",
        lambda: torch.get_default_device().type,
        lambda kind: torch.set_default_device(None if kind == "cpu" else kind),
    ),
    Setting("the collection of garbage (gc)", _collection, _put_collection),
    Setting("the number of threads", torch.get_num_threads, torch.set_num_threads),
    Setting(
        "the choice of deterministic algorithms",
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        _deterministic,
    ),
    Setting(
        "the precision of float32 products",
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    *(
        Setting(
            f"the choice of the {kind} attention kernel",
            getattr(torch.backends.cuda, f"{kind}_sdp_enabled"),
            getattr(torch.backends.cuda, f"enable_{kind}_sdp"),
        )
        for kind in ("flash", "math", "mem_efficient", "cudnn")
    ),
    Setting(
        "torch's random numbers",
        lambda: _bytes(torch.random.get_rng_state()),
        lambda state: torch.random.set_rng_state(_state(state)),
    ),
    Setting("torch's random numbers on the GPU", _cuda_state, _put_cuda_state),
    Setting("numpy's random numbers", _numpy_state, numpy.random.set_state),
    Setting("Python's random numbers", random.getstate, random.setstate),
    Setting("the hooks that run on all modules", _hooks, _put_hooks),
    *(
        Setting(
            f"autocast on {kind}",
            functools.partial(torch.is_autocast_enabled, kind),
            functools.partial(torch.set_autocast_enabled, kind),
        )
        for kind in ("cpu", "cuda")
    ),
)


def put_back(settings: list[Any]) -> list[str]:
    """What of the process is no longer as it was; it is by now."""
    changed = []
    for setting, before in zip(SETTINGS, settings, strict=True):
        if setting.get() != before:
            setting.put(before)
            changed.append(setting.name)
    return changed
