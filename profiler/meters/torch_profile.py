"""What a request asks of torch and of the device: operators, launches, waits, busy time, by phase.

Counted by torch.profiler in a pass of its own: its presence slows the host down, so that no time
is taken from it but the time for which the device was busy.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...methods.engine.context import Lap
from ...reports.record.schema import Activity
from ..subprocesses import temporary_folder
from .chrome_trace import MARK, export

LAUNCHES = ("cudaLaunch", "cuLaunch", "cudaGraphLaunch")
WAITS = ("Synchronize",)  # of a stream, an event or the device
BLOCKING = ("cudaMemcpy", "cudaMemcpy2D", "cudaFree")  # wait, though their names do not say so
ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
ATTENTION = ("scaled_dot_product", "flash_attn", "_attention_forward")
KINDS = (
    ("cudnn", "cuDNN"),
    ("efficient", "memory-efficient"),
    ("fmha", "memory-efficient"),
    ("flash", "flash"),
    ("attention_math", "math"),
    ("softmax", "softmax map"),
)
"""Words in names of attention operators and of attention kernels on the device, and what kind of
kernel they mean. cuDNN's come first: their names hold `flash` too."""
OF_CUDNN = ("attention", "sdpa", "flash", "fmha")
"""One of these stands in the name of a kernel of cuDNN that is attention's: it has convolutions as
well."""
BESIDE = ("score", "select", "compress")  # parts in which a method decides: no attention of a layer

Event = dict[str, Any]
Result = tuple[list[Activity], list[str], dict[str, list[str]]]
"""Activity by part, attention kernels by decoder layer in prefill, and their kinds by phase."""


def count(device: Any, request: Callable[[Lap], object]) -> Result:
    """Run `request` once under torch.profiler; see Result."""
    return analyse(trace(device, request), on_gpu=device.type == "cuda")


def trace(device: Any, request: Callable[[Lap], object]) -> list[Event]:
    """The events of one request, in the format of chrome://tracing; every lap is a mark."""
    with temporary_folder() as folder:
        path = folder / "trace.json"
        export(device, request, path)
        return events_in(path)


def events_in(path: Path) -> list[Event]:
    """The events of a Chrome trace that have a duration."""
    events: list[Event] = json.loads(path.read_bytes())["traceEvents"]
    return [event for event in events if event.get("ph") == "X"]


@dataclass
class _Tally:
    """Counts of one part."""

    operators: int = 0
    launches: int = 0
    kernels: int = 0
    syncs: int = 0
    busy: list[tuple[float, float]] = field(default_factory=list)


def analyse(events: Iterable[Event], *, on_gpu: bool) -> Result:
    """Activity and attention kernels, from the events of a trace; see Result.

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
    activity = [_activity(part, tally, on_gpu) for part, tally in tallies.items()]
    return activity, found, _kinds(listed, part_at, launched)


def _kinds(
    events: list[Event],
    part_at: Callable[[float], list[str] | None],
    launched: dict[int, float],
) -> dict[str, list[str]]:
    """Kinds of attention kernel by phase, the most frequent first: as the host asked for them, or,
    where it asked for none, as in a graph, by the names of what ran on the device."""
    asked: dict[str, Counter[str]] = {}
    ran: dict[str, Counter[str]] = {}

    def add(found: dict[str, Counter[str]], at: float, kind: str) -> None:
        part = part_at(at)
        if kind and part and part[1] not in BESIDE:
            found.setdefault(part[0], Counter())[kind] += 1

    for at, names in _attention_calls(events):
        kinds = list(filter(None, map(_kind, names)))  # torch's math holds a softmax: the first
        add(asked, at, kinds[0] if kinds else "unknown")
    for event in events:
        if event.get("cat") == "kernel":
            at = launched.get(event["args"].get("correlation", -1), -1.0)
            add(ran, at, _kind(event["name"]))
    return {
        phase: [kind for kind, _ in kinds.most_common()]
        for phase, kinds in {**ran, **asked}.items()
    }


def _attention_calls(events: list[Event]) -> list[tuple[float, list[str]]]:
    """When the host asked for attention or a softmax, and the operators that this went through,
    each called by the one before."""
    words = (*ATTENTION, "softmax")
    calls = [
        e for e in events if e.get("cat") == "cpu_op" and any(word in e["name"] for word in words)
    ]
    found: list[tuple[float, list[str]]] = []
    end = float("-inf")
    for event in sorted(calls, key=lambda e: (e["ts"], -e["dur"])):
        if event["ts"] >= end:
            end = event["ts"] + event["dur"]
            found.append((event["ts"], []))
        found[-1][1].append(event["name"])
    return found


def _kind(name: str) -> str:
    """The kind of attention kernel that a name means; "" for another one."""
    low = name.lower()
    kind = next((kind for word, kind in KINDS if word in low), "")
    return "" if kind == "cuDNN" and not any(word in low for word in OF_CUDNN) else kind


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
