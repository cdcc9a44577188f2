"""A callable that is an object of this program: it runs here, in this process."""

from __future__ import annotations

from typing import Any

from ...methods.contract.containment import contained
from ..probe.serve import QUESTIONS
from ..probe.worker import Worker


class Here:
    """Answers what a `Worker` answers, by being one. What it prints goes to stderr, and it may not
    end the program; but what it changes of the process, a dtype or a working folder, holds for
    all that is measured in it."""

    def __init__(self, found: Any) -> None:
        self._found = found
        self._worker = Worker()

    def load(self, name: str, **given: Any) -> dict[str, Any]:
        with contained():
            return self._worker.load(self._found, name, **given)

    def __getattr__(self, name: str) -> Any:
        if name not in QUESTIONS:
            raise AttributeError(name)

        def ask(**given: Any) -> Any:
            with contained():
                return getattr(self._worker, name)(**given)

        return ask

    def close(self) -> None:
        """Let go of what it holds."""
        self._worker = Worker()
