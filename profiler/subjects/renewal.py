"""Fresh processes for callables, round by round: the luck that a process has is part of the noise.

Two processes of the same code differ for as long as they live, by where their memory lies and what
was tuned as they began. From rounds within one process each, intervals would be narrow and wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .bench_cell import BenchCell
from .callable_cell import CallableCell

MOST_SAMPLES = 20
"""Of a cell in a round: more of the same processes say nothing new."""


def fresh_processes(
    cells: Sequence[BenchCell], renew: Callable[[CallableCell], None], number: int
) -> int:
    """See that each callable with a process of its own begins round `number` in a fresh one, in
    turns the first and the last one first, and return how many samples of each cell the round has:
    as many as take as long as starting took. One where there is no such callable."""
    own = [cell for cell in cells if isinstance(cell, CallableCell) and cell.in_own_process]
    for cell in own if number % 2 else own[::-1]:
        if cell.alive and cell.used:
            renew(cell)
        cell.used = True
    starting = sum(cell.starting for cell in own if cell.alive)
    sweep = sum(min(cell.saved.warmups) for cell in cells if cell.alive and cell.saved.warmups)
    if not starting or not sweep:
        return 1
    return max(1, min(MOST_SAMPLES, int(starting / sweep)))
