"""What an operator class asks of the hardware, and how such figures are put together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass

from ...reports.record.schema import Cost

Operators = dict[str, "Work"]
"""What one layer or phase does, by operator class."""


@dataclass(frozen=True)
class Work:
    """Work of one operator class, whole batch.

    flops: matrix products and convolutions, 1 MAC = 2 FLOPs, attention dense. causal_flops: the
    same without the half of causal attention that a kernel may skip. read_bytes, written_bytes:
    each operator reads its inputs and weights once and writes its results once; neighbouring
    element-wise operators count as one (what a fused kernel cannot avoid). launches: operators
    counted in this way, each of which is a kernel at least. fresh_bytes: of those read, the weights
    and, in decode, the caches: nothing else in the part touches them.
    """

    flops: int = 0
    causal_flops: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    launches: int = 0
    fresh_bytes: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.flops + other.flops,
            self.causal_flops + other.causal_flops,
            self.read_bytes + other.read_bytes,
            self.written_bytes + other.written_bytes,
            self.launches + other.launches,
            self.fresh_bytes + other.fresh_bytes,
        )

    def times(self, count: int) -> Work:
        """The same work `count` times."""
        return Work(*(count * value for value in astuple(self)))


@dataclass(frozen=True)
class Item:
    """The work of one operator class in one part of a request.

    `phase` and `part` are those of the clock; `index` is a layer or a decode step.
    """

    phase: str
    part: str
    index: int | None
    operator: str
    work: Work


def matmul(rows: int, inner: int, columns: int, itemsize: int, *, bias: bool = False) -> Work:
    """A product of [rows, inner] with weights [inner, columns], and a bias where there is one.

    FLOPs 2 * rows * inner * columns; reads rows * inner + (inner + bias) * columns elements,
    writes rows * columns.
    """
    flops = 2 * rows * inner * columns
    weights = (inner + int(bias)) * columns
    read, written = rows * inner + weights, rows * columns
    return Work(flops, flops, read * itemsize, written * itemsize, 1, weights * itemsize)


def elementwise(read: int, written: int, itemsize: int, launches: int = 1) -> Work:
    """Element-wise operators that read and write so many elements."""
    return Work(0, 0, read * itemsize, written * itemsize, launches)


def merged(items: Iterable[Item]) -> list[Item]:
    """One item for each operator class of each part, in the order of their first occurrence."""
    found: dict[tuple[str, str, int | None, str], Work] = {}
    for item in items:
        key = (item.phase, item.part, item.index, item.operator)
        found[key] = found.get(key, Work()) + item.work
    return [Item(*key, work) for key, work in found.items() if work != Work()]


def as_record(items: Iterable[Item]) -> list[Cost]:
    """The items as a record keeps them."""
    return [
        Cost(phase=i.phase, part=i.part, index=i.index, operator=i.operator, **vars(i.work))
        for i in items
    ]


def total(items: Iterable[Item], phase: str | None = None) -> Work:
    """The work of all items, or of those of one phase."""
    return sum((item.work for item in items if phase in (None, item.phase)), Work())
