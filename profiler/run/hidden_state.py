"""What a request could leave behind for the next one: in the model, the method, the process.

A request gives the same whatever ran before it. A setting of the process that a method changes is
put back, and the method fails; a model that was changed cannot be put back, and the run ends.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...methods import Method
from ...methods.contract.errors import InputError
from ...methods.engine.run import Trace
from ..machine.settings import SETTINGS, put_back

TABLES = ("_parameters", "_buffers", "_modules")  # of a module: what they hold has names of its own
DEPTH = 4  # to which containers are looked through
ALIKE = 0.1  # share of kept tokens, and of the size of the logits, by which kernels may differ
CLOSE = 0.01  # of the size of the logits, by which they may differ where nothing rounds otherwise
STANDARD = os.path.dirname(threading.__file__)
WHY = "what a request gives must not depend on those before it"
SAME_NUMBERS = "view.random(seed=...) draws numbers that are the same in every request"


class LeftBehindError(RuntimeError):
    """A request with a method changed what the requests after it depend on."""


class ModelChangedError(InputError):
    """A request changed the model: no request after it is the same, and the run ends."""


@contextmanager
def left_as_found(module: nn.Module, method: Method) -> Iterator[None]:
    """Hold the process, the method and the model after a request against what they were before.

    Raises LeftBehindError for what a method changed of the process, which is put back, or of
    itself; ModelChangedError for a changed model: nothing that is measured with it means anything.
    """
    model, own = _of_module(module), _of_method(method)
    try:
        with process_left_as_found():
            yield
    finally:  # also where the method failed: the others would run on another model
        if found := _difference(model, _of_module(module)):
            raise ModelChangedError(
                f"a request with {method.name} changed {found} of the model: no request after it "
                "is the same, and nothing is measured with it"
            )
    if found := _difference(own, _of_method(method)):
        raise LeftBehindError(f"a request with it changes its own {found}: {WHY}")


@contextmanager
def process_left_as_found(*, threads: bool = True) -> Iterator[None]:
    """The part of `left_as_found` that costs next to nothing: the settings of the process, and the
    threads that run in it, if they are wanted."""
    settings = [setting.get() for setting in SETTINGS]
    running = {*sys._current_frames()}
    try:
        yield
    finally:
        changed = put_back(settings)
    if threads and (left := _threads_since(running)):
        raise LeftBehindError(
            f"a request with it leaves {len(left)} thread{'s' * (len(left) > 1)} running "
            f"({left[0]}), which take time from what is measured after it: join them, or measure "
            "with --isolate"
        )
    if changed:
        hint = f"; {SAME_NUMBERS}" if any("random" in name for name in changed) else ""
        raise LeftBehindError(f"a request with it changes {', '.join(changed)}: {WHY}{hint}")


def require_same(first: Trace, again: Trace) -> None:
    """Raises LeftBehindError where a request gave something else when it was run again."""
    if [kept.tolist() for kept in first.kept] != [kept.tolist() for kept in again.kept]:
        found = "keeps other visual tokens"
    elif not torch.allclose(first.logits, again.logits, rtol=1e-2, atol=1e-3):
        found = "gives other logits"
    else:
        return
    raise LeftBehindError(f"the same request {found} when it is run again: {WHY}")


def require_alike(eager: Trace, replayed: Trace) -> None:
    """Raises LeftBehindError where a captured request answers otherwise than an eager one: what a
    method computes on the host is captured once and never again. Kernels may round otherwise, so
    that a tenth of the tokens, and of the size of the logits, may differ."""
    shares = [_agreeing(*pair) for pair in zip(eager.kept, replayed.kept, strict=True)]
    off = (replayed.logits - eager.logits).float().norm() / eager.logits.float().norm()
    if min(shares, default=1.0) < 1 - ALIKE:
        found = "keeps other visual tokens"
    elif off > ALIKE:
        found = "gives other logits"
    else:
        return
    raise LeftBehindError(
        f"captured as a graph it {found} than eagerly: it computes something on the host, which a "
        "graph does not run again"
    )


@dataclass(frozen=True)
class Answer:
    """What a request gave, on the host: kept [n] are the tokens that stay, of all layers one after
    the other; logits [B, vocabulary]."""

    kept: Tensor
    logits: Tensor

    @classmethod
    def of(cls, trace: Trace) -> Answer:
        """Waits for the device: not while the clock runs."""
        kept = [layer.cpu().flatten() for layer in trace.kept]
        logits = trace.logits.to("cpu", torch.float32, copy=True)
        return cls(torch.cat(kept) if kept else torch.empty(0), logits)


def require_unchanged(first: Answer, now: Answer, *, exact: bool) -> None:
    """Raises LeftBehindError where a timed request gave something else than the first did: their
    times are of different things. exact: else a tenth may differ, as kernels of a GPU may round
    otherwise from request to request."""
    same = first.kept.shape == now.kept.shape
    agreeing = float((first.kept == now.kept).float().mean()) if same and len(now.kept) else 1.0
    off = float((now.logits - first.logits).norm() / first.logits.norm().clamp_min(1e-12))
    if not same or agreeing < (1.0 if exact else 1 - ALIKE):
        found = "keeps other visual tokens"
    elif off > (CLOSE if exact else ALIKE):
        found = "gives other logits"
    else:
        return
    raise LeftBehindError(f"a timed request {found} than the first: {WHY}; {SAME_NUMBERS}")


def _agreeing(one: Tensor, other: Tensor) -> float:
    """The share of the kept tokens of one request that another one kept too."""
    return float(torch.isin(one, other).float().mean())


def _threads_since(running: set[int]) -> list[str]:
    """Where threads stand that were not there before; those of torch's own code are its own."""
    found = []
    for thread, frame in sys._current_frames().items():
        stack = traceback.extract_stack(frame) if thread not in running else []
        if stack and not any(f"{os.sep}torch{os.sep}" in line.filename for line in stack):
            own = [line for line in stack if not line.filename.startswith(STANDARD)]
            last = (own or stack)[-1]
            found.append(f"{os.path.basename(last.filename)} line {last.lineno}")
    return found


def _difference(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The first name that is new, gone or stands for something else; "" if all is as it was."""
    missing = object()
    for name in {**before, **after}:
        if before.get(name, missing) != after.get(name, missing):
            return name
    return ""


def _of_module(module: nn.Module) -> dict[str, Any]:
    """By name: weights, buffers, and what else lies on the modules."""
    found: dict[str, Any] = {}
    for path, part in module.named_modules():
        at = f"{path}." if path else ""
        for name, value in vars(part).items():
            if name not in TABLES:
                found[at + name] = _identity(value)
        for tensors in (part._parameters, part._buffers):
            found.update({at + name: _identity(tensor) for name, tensor in tensors.items()})
    return found


def _of_method(method: Method) -> dict[str, Any]:
    """By name: knobs, and what else lies on a method. What functools caches follows from them."""
    parts = getattr(method, "parts", ())
    found = {
        name: _identity(value)
        for name, value in vars(method).items()
        if not isinstance(getattr(type(method), name, None), functools.cached_property)
    }
    for part in parts:  # of a composition
        found |= {f"{part.name}.{name}": value for name, value in _of_method(part).items()}
    return found


def _identity(value: Any, depth: int = DEPTH) -> Any:
    """What changes when `value` does: of a tensor where it lies and how often it was written to,
    of a container what it holds, of plain values themselves, of others which object it is."""
    if isinstance(value, Tensor):
        return value.data_ptr(), -1 if value.is_inference() else value._version
    if depth and isinstance(value, dict):
        return [(_identity(k, 0), _identity(v, depth - 1)) for k, v in value.items()]
    if depth and isinstance(value, (list, tuple)):
        return [_identity(item, depth - 1) for item in value]
    if depth and isinstance(value, (set, frozenset)):
        return {_identity(item, 0) for item in value}
    if isinstance(value, (bool, int, float, str, bytes, type(None))):
        return repr(value)
    return id(value)
