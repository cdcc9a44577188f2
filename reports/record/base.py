"""What all parts of a record have in common."""

from __future__ import annotations

import msgspec


class RecordError(ValueError):
    """A file that is no record, or one that this version cannot read."""


class Struct(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of all parts of a record."""
