"""In which order cells are measured, and when it is enough. Knows nothing of how."""

from __future__ import annotations

import math
from collections.abc import Callable

from ...methods.contract.errors import InputError
from ...methods.contract.policies import check_policy, check_runtime
from ...reports.analysis.summary import precision
from ...reports.record.schema import Record, Settings

Progress = Callable[[str, int, int], None]
"""Told what runs now, how many steps are done, and how many there are about."""


def check(settings: Settings) -> Settings:
    """The settings, if they can be met; raises InputError."""
    for policy in settings.attention:
        check_policy(policy)
    for runtime in settings.runtimes:
        check_runtime(runtime)
    for option, listed in (
        ("--attention", settings.attention),
        ("--runtime", settings.runtimes),
    ):
        if len(set(listed)) < len(listed):
            raise InputError(f"{option} {','.join(listed)} names one twice")
    for option, count in (
        ("--min-rounds", settings.min_rounds),
        ("--max-rounds", settings.max_rounds),
        ("--samples", settings.samples),
    ):
        if count < 1:
            raise InputError(f"{option} must be at least 1, not {count}")
    if settings.max_rounds < settings.min_rounds:
        raise InputError(
            f"--max-rounds {settings.max_rounds} is below --min-rounds {settings.min_rounds}"
        )
    if not (math.isfinite(settings.target) and settings.target > 0):
        raise InputError(f"--target-ci {settings.target:g} is not a share above 0, as 0.02 or 2%")
    seconds = settings.max_seconds
    if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
        raise InputError(f"--max-seconds must be a number from 0 up, not {seconds}")
    if settings.samples > 1 and not settings.isolate:
        raise InputError("--samples is per process: it needs --isolate")
    return settings


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
    settings = record.settings
    if done < settings.min_rounds:
        return False
    if done >= settings.max_rounds:
        return True
    if settings.max_seconds is not None and spent >= settings.max_seconds:
        return True
    alive = [precision(cell) for cell in record.cells if not cell.error]
    reached = all(width is not None and width <= settings.target for width in alive)
    return done % 2 == 0 and reached


def left(settings: Settings, done: int, spent: float) -> int:
    """How many rounds there will be at most, for a progress bar: a guess from the time so far."""
    if not done or settings.max_seconds is None:
        return settings.max_rounds - done if settings.max_seconds is None else settings.min_rounds
    fitting = int((settings.max_seconds - spent) / (spent / done)) + 1
    return max(settings.min_rounds - done, min(fitting, settings.max_rounds - done), 1)
