"""What the text of an option stands for, where its type does not say it."""

from __future__ import annotations

import re

from ...sanitize import quoted
from .options import OptionError


def sizes(keyword: str, text: str) -> tuple[tuple[int, int], ...]:
    """Heights and widths, typed as 672x672,336x448; raises OptionError."""
    wanted = "HEIGHTxWIDTH, as 672x672"
    return tuple(two_counts(keyword, part.strip(), "x", wanted) for part in text.split(","))


def two_counts(keyword: str, text: str, separator: str, wanted: str) -> tuple[int, int]:
    """Two whole numbers; raises OptionError."""
    parts = text.split(separator)
    if len(parts) != 2 or not all(map(is_count, parts)):
        raise OptionError(keyword, f"{quoted(text)} is not {wanted}")
    return int(parts[0]), int(parts[1])


def is_count(text: str) -> bool:
    """Whether it is a whole number in plain digits, of a length that a count can have."""
    return re.fullmatch(r"[0-9]{1,18}", text.strip()) is not None
