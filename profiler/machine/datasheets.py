"""Datasheets of GPUs: what they can do at best, as published."""

from __future__ import annotations

from dataclasses import dataclass

from ...reports.record.schema import Bandwidth, Peaks


@dataclass(frozen=True)
class Sheet:
    """A GPU as published: dense tensor TFLOP/s in 16 bits, TFLOP/s in float32 without TF32, GB/s
    of its memory and GiB in it. `words` all occur in the name that its driver reports.

    Vendors write GB of memory and mean 2^30 bytes, on all of these cards: an H100 of "80 GB" tells
    torch of 85,017,493,504 bytes. What driver and ECC keep for themselves is in the figure.
    """

    name: str
    words: tuple[str, ...]
    half: float
    single: float
    bandwidth: float
    memory: float
    source: str = "NVIDIA datasheet"


DATASHEETS = {
    "b200": Sheet("B200", ("b200",), 2250, 75, 8000, 180),
    "h200": Sheet("H200 SXM", ("h200",), 989.4, 66.9, 4800, 141),
    "h100": Sheet("H100 SXM", ("h100", "hbm3"), 989.4, 66.9, 3350, 80),
    "h100-pcie": Sheet("H100 PCIe", ("h100", "pcie"), 756, 51, 2000, 80),
    "a100-80gb": Sheet("A100 SXM 80 GB", ("a100", "sxm4", "80gb"), 312, 19.5, 2039, 80),
    "a100-40gb": Sheet("A100 SXM 40 GB", ("a100", "sxm4", "40gb"), 312, 19.5, 1555, 40),
    "l40s": Sheet("L40S", ("l40s",), 362, 91.6, 864, 48),
    "l4": Sheet("L4", ("l4",), 121, 30.3, 300, 24),
    "a10": Sheet("A10", ("a10",), 125, 31.2, 600, 24),
    "rtx-4090": Sheet("RTX 4090", ("rtx", "4090"), 165.2, 82.6, 1008, 24, "NVIDIA Ada whitepaper"),
    "rtx-3090": Sheet("RTX 3090", ("rtx", "3090"), 71, 35.6, 936, 24, "NVIDIA GA102 whitepaper"),
}

OTHERS = {"nvl", "mig", "ti", "super", "d", "laptop", "max", "ada"}
"""Words of cards that share a name with one of these, and not its figures."""


def datasheet(name: str) -> Peaks:
    """The published peaks of a GPU; raises KeyError for one that is not in the table.

    A datasheet knows neither caches nor launches: all bytes move at the speed of the memory, and
    launching takes no time.
    """
    sheet = DATASHEETS[name]
    half, single = sheet.half * 1e12, sheet.single * 1e12
    return Peaks(
        device=sheet.name,
        source=sheet.source,
        flops_per_second={"bfloat16": half, "float16": half, "float32": single},
        bandwidth=[Bandwidth(footprint_bytes=0, bytes_per_second=sheet.bandwidth * 1e9)],
        memory_bytes=int(sheet.memory * 2**30),
    )


def datasheet_of(device: str) -> Peaks | None:
    """The datasheet of the GPU that a driver calls `device`, as "NVIDIA H200"; None if unknown."""
    said = set(device.lower().replace("-", " ").split())
    if said & OTHERS:
        return None
    for name, sheet in DATASHEETS.items():
        if said.issuperset(sheet.words):
            return datasheet(name)
    return None
