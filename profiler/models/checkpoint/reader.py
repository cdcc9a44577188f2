"""Reads one section of a config; whatever is not as it must be is named."""

from __future__ import annotations

import difflib
from typing import Any, NoReturn

from ....reports.sanitize import quoted
from ..errors import ModelError

MOST = {
    "layers": 1024,
    "width": 2**17,
    "heads": 1024,
    "words": 2**23,
    "pixels": 2**14,
    "positions": 2**31,
}


class Reader:
    """Reads one section of a config; whatever is not as it must be is a ModelError with its key."""

    def __init__(self, name: str, section: str, config: Any) -> None:
        self.name, self.section, self.config = name, section, config

    def refuse(self, reason: str) -> NoReturn:
        raise ModelError(f"{self.name}: {self.section}: {reason}")

    def count(self, key: str, most: int, least: int = 1) -> int:
        value = getattr(self.config, key, None)
        if type(value) is not int or not least <= value <= most:
            self.refuse(f"{key} is {quoted(value)}; known: a whole number from {least} to {most:,}")
        return value

    def require(self, key: str, *allowed: Any) -> None:
        value = getattr(self.config, key, allowed[0])
        if value not in allowed:
            known = ", ".join(map(str, allowed))
            self.refuse(f"{key} {quoted(value)} is not supported; known: {known}")

    def flag(self, key: str) -> bool:
        return bool(getattr(self.config, key, False))

    def activation(self, key: str) -> None:
        from transformers.activations import ACT2FN

        value = getattr(self.config, key, None)
        if not isinstance(value, str) or value not in ACT2FN:
            near = difflib.get_close_matches(str(value), list(ACT2FN), n=1)
            known = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(ACT2FN)}"
            self.refuse(f"{key} {quoted(value)} is no activation of transformers; {known}")
