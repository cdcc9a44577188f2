"""One request under torch.profiler, as a Chrome trace. Needs torch alone: it runs in probes too."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...methods.engine.context import Lap

MARK = "tpprof|"
"""Begins the names of marks, each of which stands at the end of a part of a request."""


def export(device: Any, request: Callable[[Lap], object], path: Path) -> None:
    """Run `request` once under torch.profiler and write its Chrome trace, for ui.perfetto.dev; a
    file whose name ends in .gz is compressed."""
    from torch.profiler import ProfilerActivity, profile, record_function

    def lap(phase: str, part: str, index: int | None = None) -> None:
        with record_function(f"{MARK}{phase}|{part}|{'' if index is None else index}"):
            pass

    kinds = [ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(ProfilerActivity.CUDA)
    with _quiet(), profile(activities=kinds) as profiled:
        lap("start", "start")
        request(lap)
        if device.type == "cuda":
            import torch

            torch.cuda.synchronize(device)
    profiled.export_chrome_trace(str(path))


@contextmanager
def _quiet() -> Iterator[None]:
    """The profiler's library writes a line to stderr as it starts and stops, whatever is asked."""
    sys.stderr.flush()
    with open(os.devnull, "w") as nowhere:
        before = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)
