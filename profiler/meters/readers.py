"""Many small questions to a machine, each of which may fail alone."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ...methods.contract.errors import first_line

Readers = Mapping[str, Callable[[], Any]]
"""What to ask for each field of a struct."""


class UnknownError(Exception):
    """A figure that cannot be known; the message is the reason."""


class Absent:
    """Stands for a module that is not there: whatever is asked of it says why."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def __getattr__(self, name: str) -> Any:
        raise UnknownError(self._reason)


def module_or_absent(name: str) -> Any:
    """The module, or what stands for it where it does not import."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # a broken library raises more than ImportError
        return Absent(f"{name} does not import ({first_line(error)})")


def read_fields(kind: type[msgspec.Struct], readers: Readers) -> dict[str, Any]:
    """Fields of `kind`, each as its reader finds it, None where that fails or finds nothing; and
    their `reasons`.

    An answer that does not fit its field is unknown too: a record that holds it could be written,
    but not read again.
    """
    types = {field.name: field.type for field in msgspec.structs.fields(kind)}
    found: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for name, reader in readers.items():
        try:
            found[name] = msgspec.convert(reader(), types[name])
            if found[name] is None:
                reasons[name] = "there is none here"
        except Exception as error:
            found[name] = None
            reasons[name] = str(error) if isinstance(error, UnknownError) else first_line(error)
    return {**found, "reasons": reasons}
