"""What all parts of a record have in common."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec


class RecordError(ValueError):
    """A file that is no record, or one that this version cannot read."""


class Struct(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of all parts of a record."""


def about(text: str, **bounds: Any) -> msgspec.Meta:
    """What a field is, in words for the JSON schema and for whoever reads the struct; `bounds` as
    msgspec.Meta has them. Only what cannot be otherwise is bound: a record that breaks one is
    refused, and the run with it."""
    return msgspec.Meta(description=text, **bounds)


Count = Annotated[int, msgspec.Meta(ge=0)]
"""How many, or how many bytes."""
Amount = Annotated[float, msgspec.Meta(ge=0)]
"""How much of what is never negative: seconds, Hz, W, J."""
