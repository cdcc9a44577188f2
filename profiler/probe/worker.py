"""Runs one callable: on the clock, and in passes of their own for counts and peaks.

What it answers is plain data, the same whether it is asked in this process or through a pipe.
"""

from __future__ import annotations

import gc
import os
import platform
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..meters.clock import Stopwatch
from ..meters.process_memory import (
    allocated,
    allocations,
    allocator_peak,
    reset_resident_peak,
    resident_now,
    resident_peak,
)
from .target import Target, TargetError
from .watched import LapFunction, Parts, Watch, parts_of, watching

PACKAGES = ("torch", "transformers", "numpy", "flash_attn", "accelerate")
LEAK_REQUESTS = 4
RESIDENT_STEP = 2**20
"""Bytes by which the resident memory must grow in each request to be called a leak: less is noise
of the system's allocator."""
_forked = [0]


def _count_fork() -> None:
    _forked[0] += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_parent=_count_fork)


def no_lap(phase: str, part: str, index: int | None = None) -> None:
    return None


class Worker:
    """One callable and the request that it is given."""

    def __init__(self, printed: Callable[[], int] | None = None) -> None:
        """printed: how many bytes were printed so far, where that is known."""
        self._printed = printed or (lambda: 0)

    def load(
        self,
        found: Any,
        name: str,
        *,
        device: str,
        new_tokens: int,
        inputs: Any = None,
        threads: int | None = None,
    ) -> dict[str, Any]:
        """Take what was found under `name`; returns what is known of it. inputs: of the request,
        a mapping or a function that makes one. threads: of torch on a CPU. Raises TargetError."""
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        self.device = torch.device(device)
        if self.device.type == "cuda":
            if self.device.index is None:
                self.device = torch.device("cuda", torch.cuda.current_device())
            torch.cuda.set_device(self.device)
        self.given = inputs
        self.target = Target(found, name, new_tokens)
        model = self.target.model
        self.parts = parts_of(model) if model is not None else Parts()
        weight = _weight(model)
        self.place = self.device if weight is None else weight.device
        if self.place.type != self.device.type:
            raise TargetError(
                f"its model is on {self.place}, and {self.device} is measured: move it there"
            )
        self.makes = self.target.makes_inputs(inputs)
        self.watch = Stopwatch(self.device)
        gc.collect()
        return self._described()

    def timed(self) -> dict[str, Any]:
        """One request on the clock: seconds, and what must be the same in each request."""
        asked, printed, forked = allocations(self.device), self._printed(), _forked[0]
        threads = threading.active_count()
        with _no_collection(), watching(self.parts, self.watch.lap) as watch:
            self.watch.start()
            result = self._run(watch)
            timing = self.watch.stop()
        now = allocations(self.device)
        return {
            "latency": timing.latency,
            "began": timing.began,
            "parts": [[*part, seconds] for part, seconds in timing.parts.items()],
            "host": timing.host,
            "marks": [f"{what} in the window" for what in now if now[what] > asked[what]],
            "printed": self._printed() - printed,
            "forked": _forked[0] - forked,
            "threads": threading.active_count() - threads,
            "looks": self._looks(result, watch),
        }

    def counted(self) -> dict[str, Any]:
        """One request whose cache and results are looked at: tokens, bytes, and what it gave."""
        held = [] if self.makes else tensors_in(self.target.inputs(self.given))
        versions = versions_of(held)
        padding: list[int] = []
        result, watch = self._watched(
            no_lap, caches=True, look_at=lambda given: padding.extend(padding_in(given))
        )
        seen = watch.seen
        changed = versions != versions_of(held)
        return {
            "faults": [*(["inputs"] if changed else []), *faults_in(result)],
            "looks": self._looks(result, watch),
            "kv_prefill": seen.kv_prefill,
            "kv_decode": seen.kv_decode,
            "vision": seen.vision,
            "lacking": self._lacking(watch),
            "padding": padding,
        }

    def untimed(self) -> dict[str, Any]:
        """One request of a pass."""
        result, watch = self._watched(no_lap)
        return {"looks": self._looks(result, watch)}

    def kept(self) -> dict[str, Any]:
        """Bytes that each of several requests keeps; 0 where it keeps none. tensors: of tensors on
        the host, or of torch's allocator on a GPU; resident: of the process."""
        held = []
        for _ in range(LEAK_REQUESTS):
            self._watched(no_lap)
            gc.collect()
            held.append((self._tensor_bytes(), resident_now()))
        tensors, resident = (
            min(held[turn + 1][which] - held[turn][which] for turn in range(len(held) - 1))
            for which in (0, 1)
        )
        return {
            "tensors": max(tensors, 0),
            "resident": resident if resident >= RESIDENT_STEP else 0,
        }

    def peak(self) -> dict[str, Any]:
        """The peak memory of one request."""
        if self.device.type == "cuda":
            by_phase, _ = allocator_peak(self.device, self._pass)
            return {"allocator": max(by_phase.values(), default=None), "by_phase": by_phase}
        reset = reset_resident_peak()
        self._watched(no_lap)
        return {"resident": resident_peak() if reset else None}

    def flops(self) -> dict[str, Any]:
        """FLOPs of one request as torch counts them, by phase. Raises where this torch cannot."""
        try:
            import torch.utils.flop_counter
        except ImportError:
            import torch

            raise TargetError(f"torch {torch.__version__} counts no FLOPs") from None
        from ..meters.flop_counter import flops

        counted = flops(self._pass)
        return {
            "by_phase": counted.by_phase,
            "tables": counted.tables,
            "uncounted": counted.uncounted,
        }

    def trace(self, path: str) -> dict[str, Any]:
        """Write the Chrome trace of one request, with a mark at the end of each part."""
        from ..meters.chrome_trace import export

        export(self.device, self._pass, Path(path))
        return {}

    def _run(self, watch: Watch, look_at: Callable[[Any], None] | None = None) -> Any:
        """One request, from its inputs to what it returns. look_at: is shown the inputs."""
        given = self.target.inputs(self.given)
        if look_at is not None:
            look_at(given)
        if self.makes:
            watch.lap("preprocess", "preprocess")
        moved = {name: _moved(value, self.place) for name, value in given.items()}
        if any(moved[name] is not given[name] for name in given):
            watch.lap("transfer", "transfer")
        result = self.target.call(moved)
        watch.end()
        if isinstance(result, (Iterator, Awaitable)):
            raise TargetError(
                f"it returned {type(result).__name__}, of which nothing has run yet: return what "
                "comes of it"
            )
        return result

    def _watched(
        self,
        lap: LapFunction,
        *,
        caches: bool = False,
        look_at: Callable[[Any], None] | None = None,
    ) -> tuple[Any, Watch]:
        with watching(self.parts, lap, caches=caches) as watch:
            return self._run(watch, look_at), watch

    def _pass(self, lap: LapFunction) -> Any:
        return self._watched(lap)[0]

    def _looks(self, result: Any, watch: Watch) -> dict[str, Any]:
        """What must be the same in each request: else its times are of different things."""
        seen = watch.seen
        return {
            "dtype of its weights": _dtype_of(self.target.model),
            "tokens entering the decoder layers": [seen.tokens[i] for i in sorted(seen.tokens)],
            "tokens generated": seen.answers or None,
            "what it returned": form_of(result),
        }

    def _lacking(self, watch: Watch) -> str:
        """Why its parts cannot be told apart; "" if they can."""
        if self.target.model is None:
            return (
                "a function says nothing of its parts: let it name its model "
                f"({self.target.name.rpartition(':')[2]}.model = ...)"
            )
        if self.parts.lacking:
            return self.parts.lacking
        return "" if watch.seen.passes else "its decoder layers are not called as modules"

    def _tensor_bytes(self) -> int:
        if self.device.type == "cuda":
            return allocated(self.device)
        import torch

        seen: dict[int, int] = {}
        for each in gc.get_objects():
            if type(each) in (torch.Tensor, torch.nn.Parameter):
                seen[each.data_ptr()] = max(
                    seen.get(each.data_ptr(), 0), each.numel() * each.element_size()
                )
        return sum(seen.values())

    def _described(self) -> dict[str, Any]:
        model = self.target.model
        weights = list(model.parameters()) if model is not None else []
        return {
            "kind": self.target.kind,
            "file": self.target.file,
            "sha256": self.target.digest(),
            "python": platform.python_version(),
            "executable": sys.executable,
            "packages": {name: version for name in PACKAGES if (version := _version(name))},
            "model_class": type(model).__name__ if model is not None else "",
            "parameters": sum(weight.numel() for weight in weights) if weights else None,
            "layers": len(self.parts.layers) or None,
            "dtype": _dtype_of(model),
            "own_inputs": self.target.own_inputs is not None or self.target.takes_none,
        }


def form_of(result: Any, depth: int = 3) -> str:
    """The shape of what was returned, which does not depend on its values."""
    if hasattr(result, "shape"):
        return f"{type(result).__name__}{list(result.shape)}"
    if isinstance(result, (str, bytes)):
        return f"{type(result).__name__} of {len(result)}"
    if depth and isinstance(result, Mapping):
        listed = ", ".join(f"{key}: {form_of(result[key], depth - 1)}" for key in list(result)[:20])
        return f"{type(result).__name__}({listed})"
    if depth and isinstance(result, (list, tuple)):
        listed = ", ".join(form_of(each, depth - 1) for each in result[:20])
        return f"{type(result).__name__} of {len(result)} ({listed})"
    return type(result).__name__


def tensors_in(value: Any, depth: int = 3) -> list[Any]:
    """The tensors in what is given or returned."""
    import torch

    if isinstance(value, torch.Tensor):
        return [value]
    if not depth or not isinstance(value, (Mapping, list, tuple)):
        return []
    parts = list(value.values()) if isinstance(value, Mapping) else value
    return [tensor for part in parts[:1000] for tensor in tensors_in(part, depth - 1)]


def padding_in(inputs: Mapping[str, Any]) -> list[int]:
    """How many positions of the rows of a batch are masked, and how many there are; nothing where
    none is."""
    mask: Any = inputs.get("attention_mask")
    if len(getattr(mask, "shape", ())) != 2:
        return []
    whole = int(mask.shape[0] * mask.shape[1])
    masked = whole - int((mask != 0).sum())
    return [masked, whole] if masked else []


def faults_in(result: Any) -> list[str]:
    """What makes its figures doubtful: "nan" among its numbers; "gradients" that it keeps."""
    found = tensors_in(result)
    faults = ["gradients"] if any(tensor.requires_grad for tensor in found) else []
    with suppress(RuntimeError):  # some dtypes of eight bits cannot be asked
        if any(bool(tensor.isnan().any()) for tensor in found if tensor.is_floating_point()):
            faults.append("nan")
    return faults


def versions_of(tensors: list[Any]) -> list[int]:
    """How often each was written to in place; torch does not count it of inference tensors."""
    return [tensor._version for tensor in tensors if not tensor.is_inference()]


def _moved(value: Any, device: Any) -> Any:
    """A tensor on the device, which is itself where it is there already."""
    if hasattr(value, "to") and hasattr(value, "shape"):
        return value.to(device, non_blocking=True)
    return value


def _weight(model: Any) -> Any:
    """The first weight of a model; None where it has none, or there is no model."""
    return next(iter(model.parameters()), None) if model is not None else None


def _dtype_of(model: Any) -> str:
    weight = _weight(model)
    return str(weight.dtype).partition(".")[2] if weight is not None else ""


def _version(name: str) -> str:
    """Of a package that is loaded: none is imported for it."""
    module = sys.modules.get(name)
    return str(getattr(module, "__version__", "")) if module is not None else ""


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection while the clock runs."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
