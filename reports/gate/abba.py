"""In which order the arms run: ABBA blocks of fresh processes, and what is compared with what."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Block:
    """Four processes, A (base) and B (head): ABBA, and BAAB in every other block.

    Two neighbours are a pair, so that each arm comes first equally often and a steady drift cancels
    out within the block. The two processes of either arm are an A/A control: the same code twice,
    in the same job.
    """

    number: int

    @property
    def order(self) -> str:
        return "BAAB" if self.number % 2 else "ABBA"

    def pairs(self, seconds: Sequence[float | None]) -> list[tuple[float, float]]:
        """Base and head of each pair, from the seconds of the four processes; pairs of which one
        has none are left out."""
        found = []
        for first in (0, 2):
            both = dict(zip(self.order[first : first + 2], seconds[first : first + 2], strict=True))
            base, head = both["A"], both["B"]
            if base is not None and head is not None:
                found.append((base, head))
        return found

    def controls(self, seconds: Sequence[float | None]) -> list[float]:
        """The log-ratios of the two processes of each arm, the later one over the earlier one, or
        the other way round in every other two blocks; those of which one is missing are left
        out."""
        found = []
        for arm in "AB":
            own = [s for at, s in zip(self.order, seconds, strict=True) if at == arm]
            earlier, later = own
            if earlier is not None and later is not None:
                log = math.log(later / earlier)
                found.append(-log if self.number // 2 % 2 else log)
        return found


def blocks(pairs: int, first: int = 0) -> Iterator[Block]:
    """The blocks that give so many pairs, numbered from `first`."""
    return (Block(first + number) for number in range(pairs // 2))
