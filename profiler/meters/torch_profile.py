"""What a request asks of torch and of the device: operators, launches, waits, busy time, by phase.

Counted by torch.profiler in a pass of its own: its presence slows the host down, so that no time
is taken from it but the time for which the device was busy.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...methods.engine.context import Lap
from ...reports.record.schema import Activity

MARK = "tpprof|"
LAUNCHES = ("cudaLaunch", "cuLaunch", "cudaGraphLaunch")
WAITS = ("Synchronize",)  # of a stream, an event or the device
BLOCKING = ("cudaMemcpy", "cudaMemcpy2D", "cudaFree")  # wait, though their names do not say so
ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
KERNELS = (
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_fused_attention_overrideable",
)
"""torch's attention operators, all of which take queries, keys and values first."""
ATTENTION = ("scaled_dot_product", "flash_attn", "_attention_forward")

Event = dict[str, Any]
Result = tuple[list[Activity], list[str]]


def count(device: Any, request: Callable[[Lap], object]) -> Result:
    """Run `request` once under torch.profiler; returns the activity of each part, and the
    attention kernel of each decoder layer in prefill."""
    return analyse(trace(device, request), on_gpu=device.type == "cuda")


def flops(request: Callable[[Lap], object]) -> dict[str, int]:
    """Run `request` once under torch's FlopCounterMode; returns FLOPs by phase, attention dense."""
    import torch
    from torch.utils import flop_counter

    aten: Any = torch.ops.aten
    kernels = {getattr(aten, name): _attention_flops for name in KERNELS if hasattr(aten, name)}
    found: dict[str, int] = {}
    with flop_counter.FlopCounterMode(display=False, custom_mapping=kernels) as counter:

        def lap(phase: str, part: str, index: int | None = None) -> None:
            new = counter.get_total_flops() - sum(found.values())
            found[phase] = found.get(phase, 0) + new

        request(lap)
    return {phase: count for phase, count in found.items() if count}


def _attention_flops(
    query: Any, key: Any, value: Any, *given: Any, out_shape: Any = None, **more: Any
) -> int:
    """Both products of dense attention, from the shapes of its tensors [B, heads, tokens, width]:
    2 * B * H * queries * keys * (width of keys + width of values), H heads of the queries.

    torch's own formula refuses grouped heads up to 2.11, and of attention on a CPU it has none.
    """
    batch, heads, queries, width = query
    return int(2 * batch * heads * queries * key[2] * (width + value[3]))


def trace(device: Any, request: Callable[[Lap], object]) -> list[Event]:
    """The events of one request, in the format of chrome://tracing; every lap is a mark."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        export(device, request, path)
        events: list[Event] = json.loads(path.read_bytes())["traceEvents"]
    return [event for event in events if event.get("ph") == "X"]


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


@dataclass
class _Tally:
    """Counts of one part."""

    operators: int = 0
    launches: int = 0
    kernels: int = 0
    syncs: int = 0
    busy: list[tuple[float, float]] = field(default_factory=list)


def analyse(events: Iterable[Event], *, on_gpu: bool) -> Result:
    """Activity by part and attention kernels by decoder layer, from the events of a trace.

    What the host did belongs to the part at whose end the next mark stands; what the device did,
    to the part in which the host launched it.
    """
    listed = list(events)
    marks = sorted(
        (e["ts"], e["name"].removeprefix(MARK).split("|"), e["tid"])
        for e in listed
        if e["name"].startswith(MARK) and e.get("cat") == "user_annotation"
    )
    times, thread = [at for at, _, _ in marks], marks[0][2]
    tallies = {tuple(name): _Tally() for _, name, _ in marks[1:]}
    kernels: dict[int, str] = {}
    launched: dict[int, float] = {}

    def part_at(at: float) -> list[str] | None:
        index = bisect_left(times, at)
        return marks[index][1] if 0 < index < len(marks) else None

    for event in _outermost([e for e in listed if e.get("cat") == "cpu_op"], thread):
        part = part_at(event["ts"])
        if part:
            tallies[tuple(part)].operators += 1
    for event in listed:
        part = part_at(event["ts"])
        name, category = event["name"], event.get("cat")
        if category == "cpu_op" and part and part[:2] == ["prefill", "layer"]:
            layer = int(part[2])
            if any(word in name for word in ATTENTION):
                kernels[layer] = name  # the innermost comes last
            elif "softmax" in name:
                kernels.setdefault(layer, "softmax map")
        elif category in ("cuda_runtime", "cuda_driver"):
            launched[event["args"].get("correlation", -1)] = event["ts"]
            if part:
                _count_call(tallies[tuple(part)], name)
    for event in listed:
        if event.get("cat") in ON_DEVICE:
            part = part_at(launched.get(event["args"].get("correlation", -1), -1.0))
            if part:
                tallies[tuple(part)].kernels += event["cat"] == "kernel"
                tallies[tuple(part)].busy.append((event["ts"], event["ts"] + event["dur"]))
    layers = [int(name[2]) for _, name, _ in marks if name[:2] == ["prefill", "layer"]]
    found = [kernels.get(layer, "unknown") for layer in sorted(set(layers))]
    return [_activity(part, tally, on_gpu) for part, tally in tallies.items()], found


def _count_call(tally: _Tally, name: str) -> None:
    tally.launches += name.startswith(LAUNCHES)
    tally.syncs += name.endswith(WAITS) or name in BLOCKING


def _activity(name: tuple[str, ...], tally: _Tally, on_gpu: bool) -> Activity:
    phase, part, index = name
    counted = Activity(
        phase=phase, part=part, index=int(index) if index else None, operators=tally.operators
    )
    if on_gpu:
        counted.launches, counted.kernels = tally.launches, tally.kernels
        counted.syncs, counted.busy_seconds = tally.syncs, _union(tally.busy) * 1e-6
    return counted


def _outermost(events: list[Event], thread: Any) -> Iterable[Event]:
    """The operators that the host called, without those that they called in turn."""
    end = float("-inf")
    own = [event for event in events if event["tid"] == thread]
    for event in sorted(own, key=lambda e: (e["ts"], -e["dur"])):
        if event["ts"] >= end:
            end = event["ts"] + event["dur"]
            yield event


def _union(spans: list[tuple[float, float]]) -> float:
    """Length of what `spans` cover together: streams may overlap."""
    covered, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        covered += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return covered
