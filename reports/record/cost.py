"""Work as formulas have it, and what a device can do at best."""

from __future__ import annotations

from typing import Annotated

import msgspec

from .base import Amount, Count, Struct, about


class Cost(Struct):
    """Analytic work of one operator class in one part, whole batch. Bytes and launches are the
    least that the operators need, each reading its inputs once and writing its results once,
    element-wise neighbours fused."""

    phase: Annotated[str, about("Phase of the request.")]
    part: Annotated[str, about("Part of the phase.")]
    index: Annotated[Count | None, about("Layer or decode step, where the part has one.")]
    operator: Annotated[str, about("Operator class, such as `ffn` or `attention map`.")]
    flops: Annotated[Count, about("FLOPs, attention dense; a multiply-add is two.")]
    causal_flops: Annotated[Count, about("FLOPs without the half that a causal kernel may skip.")]
    read_bytes: Annotated[Count, about("Bytes read.")]
    written_bytes: Annotated[Count, about("Bytes written.")]
    launches: Annotated[Count, about("Kernels launched.")]
    fresh_bytes: Annotated[
        Count, about("Of those read: weights and caches, which nothing else in the part touches.")
    ] = 0


class Bandwidth(Struct):
    """How fast a device moves bytes, on a working set of one size."""

    footprint_bytes: Annotated[Count, about("Size of the working set.")]
    bytes_per_second: Annotated[float, about("Bytes per second, read and written.", gt=0)]


class Peaks(Struct):
    """What a device can do at best."""

    device: Annotated[str, about("Name of the device.")]
    source: Annotated[str, about("`measured`, or the datasheet.")]
    flops_per_second: Annotated[
        dict[str, Annotated[float, msgspec.Meta(gt=0)]],
        about("FLOP/s of matrix products, by dtype; a dtype may be missing."),
    ]
    bandwidth: Annotated[list[Bandwidth], about("Bandwidth by size of the working set.")]
    kernel_seconds: Annotated[
        Amount, about("Least time that each operator adds where it runs; 0 in a datasheet.")
    ] = 0.0
    launch_seconds: Annotated[
        Amount,
        about(
            "Least time that the host takes to launch an operator eagerly, which on a CPU is "
            "kernel_seconds; 0 in a datasheet, which does not tell."
        ),
    ] = 0.0
    memory_bytes: Annotated[Count | None, about("Memory of the device.")] = None
    threads: Annotated[Count | None, about("Threads of torch; of a CPU only.")] = None
    torch: Annotated[str, about("Version of torch that measured.")] = ""
    created: Annotated[str, about("When it was measured, ISO 8601.")] = ""
    notes: Annotated[list[str], about("What could not be measured or kept, and why.")] = []
