"""Table 7 of "Token Pruning in Multimodal Large Language Models: Are We Solving the Right Problem?"
(arXiv 2502.11501), as printed: LLaVA-NeXT-7B on POPE, 2880 visual tokens and a budget of 320."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperRow:
    """A row as printed. seconds: wall time of the whole benchmark (8910 questions by our count).
    flops_share: of vanilla's, by an unstated convention. kv_bytes: of the visual tokens alone.
    pope_f1: percent."""

    method: str
    visual_tokens: int
    seconds: int
    flops_share: float
    kv_bytes: float
    pope_f1: float


MODEL, VISUAL, BUDGET = "llava-next-7b", 2880, 320
TABLE7 = (
    PaperRow("vanilla", 2880, 36 * 60 + 16, 1.0, 1512.1e6, 86.5),
    PaperRow("fastv", 320, 18 * 60 + 17, 0.128, 168.0e6, 78.3),
    PaperRow("sparsevlm", 320, 23 * 60 + 11, 0.156, 168.0e6, 82.3),
    PaperRow("mustdrop", 320, 23 * 60 + 40, 0.115, 168.0e6, 82.1),
)
