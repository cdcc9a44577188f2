"""What a request asks of torch and of the device: operators, launches, waits, busy time, by phase.

Counted by torch.profiler in a pass of its own: its presence slows the host down, so that no time
is taken from it but the time for which the device was busy.
"""

from __future__ import annotations

import json
import os
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...methods.engine.context import Lap
from ...reports.record.schema import Activity
from ..subprocesses import temporary_folder

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
LIBRARIES = ("aten", "mkldnn", "quantized", "prims")
HARMLESS = ("prim", "profiler", "debugprims", "image", "torchvision", "rngprims", "c10d")
PRODUCTS = frozenset(
    [
        "mm",
        "bmm",
        "addmm",
        "baddbmm",
        "addbmm",
        "matmul",
        "mv",
        "addmv",
        "dot",
        "vdot",
        "linear",
        "bilinear",
        "trilinear",
        "einsum",
        "attention",
        "attn",
        "transformer",
        "cdist",
        "euclidean",
        "rnn",
        "lstm",
        "gru",
    ]
)
"""Words in names of operators that multiply matrices, beside those that begin with `conv`.
Factorisations (SVD, QR) count on neither side."""
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


@dataclass
class CountedFlops:
    """FLOPs as torch counts them. by_phase: all; tables: those of rotary tables among them.
    decisions: those of parts `select` among them. uncounted: operators that ran, may hold products,
    and of which no FLOPs are known."""

    by_phase: dict[str, int]
    tables: dict[str, int]
    decisions: int
    uncounted: list[str]


def flops(request: Callable[[Lap], object]) -> CountedFlops:
    """Run `request` once under torch's FlopCounterMode, attention dense."""
    import torch
    from torch.utils import flop_counter
    from torch.utils._python_dispatch import TorchDispatchMode

    aten: Any = torch.ops.aten
    formulas = {**dict.fromkeys(KERNELS, _attention_flops), **VECTORS}
    known = {getattr(aten, name): of for name, of in formulas.items() if hasattr(aten, name)}
    counter: Any = flop_counter.FlopCounterMode(display=False, custom_mapping=known)
    uncounted: dict[str, None] = {}

    class Uncounted(TorchDispatchMode):  # type: ignore[no-untyped-call]
        """Stands below the counter, which takes apart what it can."""

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            if func._overloadpacket not in counter.flop_registry and may_hold_products(str(func)):
                uncounted[str(func).rpartition(".")[0]] = None
            return func(*args, **(kwargs or {}))

    found: dict[str, int] = {}
    tables: dict[str, int] = {}
    decisions = 0
    with Uncounted(), counter:  # type: ignore[no-untyped-call]

        def lap(phase: str, part: str, index: int | None = None) -> None:
            nonlocal decisions
            new = counter.get_total_flops() - sum(found.values())
            found[phase] = found.get(phase, 0) + new
            table = _table_flops(counter.get_flop_counts()) - sum(tables.values())
            tables[phase] = tables.get(phase, 0) + table
            if part == "select":
                decisions += new

        request(lap)
    return CountedFlops(_positive(found), _positive(tables), decisions, sorted(uncounted))


def may_hold_products(operator: str) -> bool:
    """Whether an operator (`aten.mm.default`) may multiply matrices, by its name; of one that is
    not torch's own, nobody knows."""
    library, _, name = operator.partition(".")
    if library not in LIBRARIES:
        return library not in HARMLESS
    words = name.partition(".")[0].split("_")
    return words[0] != "upsample" and any(w in PRODUCTS or w.startswith("conv") for w in words)


def _table_flops(counts: dict[str, dict[Any, int]]) -> int:
    """FLOPs of the modules that make rotary tables, from those by module."""
    named = [found for module, found in counts.items() if module.endswith("RotaryEmbedding")]
    return sum(sum(found.values()) for found in named)


def _positive(found: dict[str, int]) -> dict[str, int]:
    return {phase: count for phase, count in found.items() if count}


def _matrix_vector_flops(matrix: Any, *given: Any, out_shape: Any = None, **more: Any) -> int:
    """2 * rows * columns of a matrix [rows, columns] times a vector."""
    return int(2 * matrix[0] * matrix[1])


def _added_vector_flops(start: Any, matrix: Any, *given: Any, **more: Any) -> int:
    """As of a matrix times a vector, which are added to a first one."""
    return _matrix_vector_flops(matrix)


def _dot_flops(one: Any, other: Any, *given: Any, **more: Any) -> int:
    """2 * n of two vectors of n elements."""
    return int(2 * one[0])


VECTORS: dict[str, Callable[..., int]] = {
    "mv": _matrix_vector_flops,
    "addmv": _added_vector_flops,
    "dot": _dot_flops,
    "vdot": _dot_flops,
}
"""Products of which torch counts no FLOPs, though they are plain."""


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
    with temporary_folder() as folder:
        path = folder / "trace.json"
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
