"""What all of tpprof's files have in common: their parts, and the versions that are read here."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec

StructT = TypeVar("StructT", bound=msgspec.Struct)


class RecordError(ValueError):
    """A file that is no record, or one that this version cannot read."""


class Struct(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of all parts of a record."""


def about(text: str, **bounds: Any) -> msgspec.Meta:
    """What a field is, in words for the JSON schema and for whoever reads the struct; `bounds` as
    msgspec.Meta has them. Only what cannot be otherwise is bound: a record that breaks one is
    refused, and the run with it."""
    return msgspec.Meta(description=text, **bounds)


MOST = 2**63 - 1
"""The largest whole number in a file, so that ratios and means of them are numbers too."""
Integer = Annotated[int, msgspec.Meta(ge=-MOST, le=MOST)]
Count = Annotated[int, msgspec.Meta(ge=0, le=MOST)]
"""How many, or how many bytes."""
Positive = Annotated[int, msgspec.Meta(ge=1, le=MOST)]
"""How many of what there is one of at least."""
Amount = Annotated[float, msgspec.Meta(ge=0)]
"""How much of what is never negative: seconds, Hz, W, J."""


class Versioned(msgspec.Struct):
    """Of any file: the version of its format."""

    schema: int


def require_schema(where: object, found: Any, known: int, again: str) -> None:
    """Raises RecordError where a file is of another version than `known`. where: the file; again:
    how to make it anew."""
    if found == known:
        return
    if isinstance(found, int) and found < known:
        raise RecordError(
            f"{where}: schema {found} was written by an earlier tpprof; read it with that version, "
            f"or {again}"
        )
    raise RecordError(
        f"{where}: schema {found} is unknown, this tpprof reads schema {known}; read it with the "
        f"version that wrote it, or {again}"
    )


def decode_versioned(
    content: bytes, kind: type[StructT], known: int, where: object, what: str, again: str
) -> StructT:
    """A JSON file of version `known` as a struct. what: what such a file is called. Raises
    RecordError with one line for another version, and for anything else."""
    try:
        require_schema(where, msgspec.json.decode(content, type=Versioned).schema, known, again)
        return msgspec.json.decode(content, type=kind)
    except RecordError:
        raise
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:  # no UTF-8, too
        raise RecordError(f"{where} is no {what}, or damaged ({error})") from error
