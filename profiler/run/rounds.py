"""In which order cells are measured, and when it is enough. What measures one is handed in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from ...reports.analysis.summary import precision
from ...reports.record.schema import Cell, Record
from ...reports.record.spec import Stopping
from ..meters.clock import now

Progress = Callable[[str, int, int], None]
"""Told what runs now, how many steps are done, and how many there are about."""


def order(count: int, number: int) -> list[int]:
    """The order of `count` cells in round `number`.

    Williams' square (1949), a round and its mirror in turn: ABBA for two cells. Over 2 * count
    rounds each cell takes each turn equally often, and follows each other cell equally often.
    """
    zigzag = [(turn + 1) // 2 if turn % 2 else -(turn // 2) for turn in range(count)]
    turned = [(cell + number // 2) % count for cell in zigzag]
    return turned[::-1] if number % 2 else turned


def begun(record: Record) -> int:
    """The number of the next round: behind all that have a sample."""
    numbers = [sample.round for cell in record.cells for sample in cell.samples]
    return max(numbers, default=-1) + 1


def complete(record: Record) -> int:
    """How many rounds every cell that did not fail has a sample of: what an earlier run broke off
    in the middle does not count."""
    alive = [cell for cell in record.cells if not cell.error]
    held = [{sample.round for sample in cell.samples} for cell in alive]
    return len(set.intersection(*held)) if held else 0


def enough(record: Record, done: int, spent: float) -> bool:
    """Whether to stop after `done` rounds in `spent` seconds.

    Precision is looked at after every second round only, when a round and its mirror are
    complete: fewer looks make the stop depend less on luck.
    """
    stopping = record.spec.stopping
    if done < stopping.least:
        return False
    if done >= stopping.most:
        return True
    if stopping.seconds is not None and spent >= stopping.seconds:
        return True
    alive = [precision(record, cell) for cell in record.cells if not cell.error]
    reached = all(width is not None and width <= stopping.target_ci for width in alive)
    return done % 2 == 0 and reached


def left(stopping: Stopping, done: int, spent: float) -> int:
    """How many rounds there will be at most, for a progress bar: a guess from the time so far."""
    if stopping.seconds is None:
        return stopping.most - done
    if not done:
        return stopping.least
    fitting = int((stopping.seconds - spent) / (spent / done)) + 1
    return max(stopping.least - done, min(fitting, stopping.most - done), 1)


def follow(
    current: Callable[[], Record],
    take: Callable[[int, int, int], None],
    tell: Progress,
    label: Callable[[Cell, int], str],
    around: Callable[[], AbstractContextManager[None]] = nullcontext,
    begin: Callable[[int], int] = lambda number: 1,
) -> None:
    """Take samples round by round until it is enough, or no cell is left that runs.

    current: the record as it is by now. take: measures a cell (its index) for a round (its number),
    as the cell whose turn it is. label: what is told of a cell in a round. around: what is in force
    while a round is measured. begin: makes ready for a round (its number), and says how many
    samples of each cell it has.
    """
    began, first, number = now(), complete(current()), begun(current())
    while alive := [index for index, cell in enumerate(current().cells) if not cell.error]:
        spent, done = now() - began, complete(current())
        if enough(current(), done, spent):
            break
        to_come = left(current().spec.stopping, done - first, spent)
        with around():
            for sweep in range(begin(number)):
                for turn, which in enumerate(order(len(alive), number + sweep)):
                    index = alive[which]
                    steps = done * len(alive) + turn, (done + to_come) * len(alive)
                    tell(label(current().cells[index], number), *steps)
                    take(index, number, turn)
        number += 1
