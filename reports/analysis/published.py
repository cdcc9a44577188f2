"""Table 7 of the paper, to stand beside a run of the same model and budget.

Efficiency on POPE with LLaVA-NeXT-7B at 320 of 2880 visual tokens: "Token Pruning in Multimodal
Large Language Models: Are We Solving the Right Problem?", https://arxiv.org/abs/2502.11501.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..record.schema import Record

SOURCE = "https://arxiv.org/abs/2502.11501"
ARCHITECTURE, LAYERS, VISUAL, KEPT = "llava-next", 32, 2880, 320


@dataclass(frozen=True)
class PublishedRow:
    """A row as published. seconds: all of POPE. flops: share of vanilla's, from which the speed-up
    is claimed. kv_bytes: of one
    request. f1: on POPE, percent."""

    method: str
    visual: int
    seconds: float
    flops: float
    kv_bytes: float
    f1: float

    @property
    def speedup(self) -> float:
        return TABLE7[0].seconds / self.seconds

    @property
    def claimed(self) -> float:
        return 1 / self.flops

    @property
    def over_claim(self) -> float | None:
        """Measured time over claimed time; None of vanilla."""
        return self.claimed / self.speedup if self.flops < 1 else None


TABLE7 = (
    PublishedRow("vanilla", 2880, 2176, 1.0, 1512.1e6, 86.5),
    PublishedRow("fastv", 320, 1097, 0.128, 168.0e6, 78.3),
    PublishedRow("sparsevlm", 320, 1391, 0.156, 168.0e6, 82.3),
    PublishedRow("mustdrop", 320, 1420, 0.115, 168.0e6, 82.1),
)


def matches(record: Record) -> bool:
    """Whether the run has the model and the budget of the paper, 2880 visual tokens to 320. The
    model by its shape: a checkpoint is named after its folder."""
    model = (record.model.architecture, record.model.layers, record.request.visual)
    if model != (ARCHITECTURE, LAYERS, VISUAL):
        return False
    return any(_budget(cell.visual_per_layer) for cell in record.cells if cell.name != "vanilla")


def _budget(counts: list[int]) -> bool:
    """Whether counts per layer stand for a budget of 320: at the last layer, or on average."""
    mean = sum(counts) / len(counts) if counts else 0.0
    return bool(counts) and (counts[-1] == KEPT or abs(mean - KEPT) <= 0.05 * KEPT)
