"""CUDA graphs: code captured as a chain of graphs in one pool of memory, replayed in that order."""

from __future__ import annotations

import contextlib
import functools
import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import torch

Cut = Callable[[], None]
"""Ends the graph at hand, and begins the next."""
Replay = Callable[[], None]
Result = TypeVar("Result")
WARM_UPS = 2  # libraries set themselves up, and plan for each length, before they are captured


class Capture(Protocol):
    """What captures a piece of work, once."""

    def warm_up(self, work: Callable[[], object]) -> None:
        """Do the work a few times, beside the current stream."""
        ...

    def chain(self, work: Callable[[Cut], Result]) -> tuple[Result, list[Replay]]:
        """The result of `work`, and what replays it, piece by piece as `work` cuts it.

        The tensors of the result keep their places: each replay of all pieces, in their order,
        fills them anew. Raises what `work` raises, with the device as it was.
        """
        ...

    def hidden_bytes(self) -> int:
        """Bytes that replays use and torch's allocator does not count as given out."""
        ...


class CudaCapture:
    """A chain of CUDA graphs on one device. They share a pool of memory, as graphs may that are
    replayed in the order of their capture."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None

    def warm_up(self, work: Callable[[], object]) -> None:
        with self._beside():
            for _ in range(WARM_UPS):
                work()

    def chain(self, work: Callable[[Cut], Result]) -> tuple[Result, list[Replay]]:
        with self._beside():
            torch.cuda.synchronize()
            gc.collect()
            torch.cuda.empty_cache()
            self._pool = torch.cuda.graph_pool_handle()
            generator = torch.cuda.default_generators[torch.cuda.current_device()]
            before, graphs = generator.clone_state(), list[torch.cuda.CUDAGraph]()

            def begin() -> None:
                graphs.append(torch.cuda.CUDAGraph())
                # Threads that watch power or memory meanwhile must not end the capture.
                graphs[-1].capture_begin(pool=self._pool, capture_error_mode="thread_local")

            def cut() -> None:
                _end(graphs[-1])
                begin()

            try:
                begin()
                result = work(cut)
                _end(graphs[-1])
            except BaseException:
                self._abandon(graphs, generator, before)
                raise
        return result, [graph.replay for graph in graphs]

    def hidden_bytes(self) -> int:
        if not self._pool:
            return 0
        snapshot: Any = torch.cuda.memory_snapshot
        return sum(
            int(segment["total_size"] - segment["allocated_size"])
            for segment in snapshot()
            if tuple(segment["segment_pool_id"]) == tuple(self._pool)
        )

    def _abandon(self, graphs: list[Any], generator: Any, before: Any) -> None:
        """Give back what a capture that failed holds.

        A capture that ends well gives it back with its graph. One that CUDA has broken does not, up
        to torch 2.11: random numbers and later captures would raise for the rest of the process.
        """
        index, internal = torch.cuda.current_device(), torch._C
        try:
            _end(graphs[-1])  # the stream goes back to work
        except RuntimeError:
            # Each raises where a newer torch has done it.
            with contextlib.suppress(RuntimeError, AttributeError):
                internal._cuda_endAllocateToPool(index, self._pool)
                internal._cuda_releasePool(index, self._pool)
            with contextlib.suppress(RuntimeError, AttributeError):
                generator.graphsafe_set_state(before)
        for graph in graphs:
            with contextlib.suppress(RuntimeError):
                graph.reset()
        self._pool = None

    @contextmanager
    def _beside(self) -> Iterator[None]:
        """On a stream of its own, behind what was queued and before what will be."""
        with torch.cuda.device(self._device):
            own = torch.cuda.current_stream()
            side = _side_stream(torch.cuda.current_device())
            side.wait_stream(own)
            try:
                with torch.cuda.stream(side):
                    yield
            finally:
                torch.cuda.set_stream(own)
                own.wait_stream(side)


@functools.cache
def _side_stream(index: int) -> Any:
    """One a device: the libraries keep memory of their own for every stream they ever ran on."""
    return torch.cuda.Stream(index)  # type: ignore[no-untyped-call]


def _end(graph: Any) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The CUDA Graph is empty")  # two laps, nothing between
        graph.capture_end()
