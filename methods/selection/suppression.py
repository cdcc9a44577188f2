"""What remains where tokens suppress each other. No torch before one is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def suppressed(rivals: Tensor, rounds: int) -> Tensor:
    """Flags bool [N, n] on the tokens that have a rival which is not suppressed itself.

    rivals: bool [N, n, n], of each token those that suppress it; no two each other, not in a ring
    either. Each round settles one more token of every chain of rivals, from its head on; in a chain
    longer than `rounds` what follows may be wrong. No round makes the host wait.
    """
    flags = rivals.any(-1)
    for _ in range(rounds - 1):
        flags = (rivals > flags[:, None]).any(-1)
    return flags
