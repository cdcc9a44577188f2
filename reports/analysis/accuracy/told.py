"""What scores come to, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from .scores import Score, no_yes

COLLAPSED = 0.05
"""Share of yes, or of no, among vanilla's answers up to which F1 is not compared."""


def distinct(listed: Sequence[Score]) -> str:
    """Which rows can be told from vanilla, in one sentence; "" where there is nothing to tell."""
    beside = [score for score in listed if score.difference and score.difference.low is not None]
    if not beside:
        return ""
    plain = next(
        (score for score in listed if score.f1 and not (score.difference or score.unpaired)), None
    )
    if plain and plain.yes_ratio is not None and not COLLAPSED < plain.yes_ratio < 1 - COLLAPSED:
        said = f"yes to {plain.yes_ratio:.0%} of all"
        return f"{plain.method} answers {said}: it does not see, and F1 tells nothing."
    below = [s.method for s in beside if s.difference and (s.difference.high or 0) < 0]
    above = [s.method for s in beside if s.difference and (s.difference.low or 0) > 0]
    told = [
        f"{'below' if words is below else 'above'} vanilla's: {', '.join(words)}"
        for words in (below, above)
        if words
    ]
    rest = len(beside) - len(below) - len(above)
    told += [f"not to be told from it: {rest} of {len(beside)}"] if rest else []
    return f"F1 {'; '.join(told)} (95 % intervals over pictures)."


def without_f1(listed: Sequence[Score]) -> str:
    """Why rows that are answered have no F1, in one sentence; "" where all have one."""
    answered = next((score for score in listed if score.categories and score.f1 is None), None)
    if answered is None:
        return ""
    lacking = [name for name, one in answered.categories.items() if one.f1 is None]
    return no_yes(lacking)
