"""How an option is declared: a field of a struct, with what it is for and what it can be."""

from __future__ import annotations

import functools
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, TypeVar

import msgspec
from msgspec import Meta

from ...sanitize import quoted
from ..base import RecordError

NOT_BLANK = r"\S"  # a pattern
Form = Literal["plain", "share", "sizes", "pair", "list", "each"]
"""How the text of an option is read: as its type says, `2%`, `672x672,336x504`, `35,25`, `a,b`, or
once for each time that it is given."""
SpecT = TypeVar("SpecT", bound="Spec")


class OptionError(RecordError):
    """A value that an option cannot have. option: its keyword; rest: what is wrong with it; others:
    keywords of other options that `rest` speaks of."""

    def __init__(self, option: str, rest: str, *others: str) -> None:
        super().__init__(f"{option} {rest}")
        self.option, self.rest, self.others = option, rest, others

    @property
    def as_flag(self) -> str:
        """The same for somebody who typed it."""
        rest = self.rest
        for other in self.others:
            rest = rest.replace(other, flag_of(other))
        return f"{flag_of(self.option)} {rest}"


def flag_of(keyword: str) -> str:
    """An option as it is typed."""
    return f"--{keyword.replace('_', '-')}"


def option(about: str, *, form: Form = "plain", keyword: str = "", **bounds: Any) -> Meta:
    """What a field is for, how its text is read, and the values that it can have.

    keyword: what it is called where it is not called as its field is.
    """
    return Meta(description=about, extra={"form": form, "keyword": keyword}, **bounds)


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the parts of a run's specification, and of the whole. Whoever makes one gets checked
    values, or an OptionError. group: what the whole calls this part; "" of the whole."""

    group: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for name, field in fields_of(type(self)).items():
            given = getattr(self, name)
            value = checked(field.keyword, given, field.type)
            if value is not given:
                msgspec.structs.force_setattr(self, name, value)


class OptionField(msgspec.Struct, frozen=True):
    """A field of one of the parts. group: the part it belongs to, by its name in RunSpec."""

    name: str
    keyword: str
    group: str
    type: Any
    default: Any
    about: str
    form: Form

    @property
    def optional(self) -> bool:
        """Whether it may be left without a value."""
        return self.default is None

    @property
    def is_flag(self) -> bool:
        """Whether it is given or not, and has no value."""
        return isinstance(self.default, bool)


@functools.cache
def fields_of(part: type[Spec]) -> dict[str, OptionField]:
    """The options of one part, by the names of its fields; none of a whole."""
    hints = typing.get_type_hints(part, include_extras=True)
    found = {}
    for field in msgspec.structs.fields(part) if part.group else ():
        (meta,) = (m for m in hints[field.name].__metadata__ if isinstance(m, Meta) and m.extra)
        extra = meta.extra or {}
        found[field.name] = OptionField(
            name=field.name,
            keyword=extra["keyword"] or field.name,
            group=part.group,
            type=hints[field.name],
            default=field.default,
            about=meta.description or "",
            form=extra["form"],
        )
    return found


def checked(keyword: str, value: Any, hint: Any) -> Any:
    """`value` as the field of type `hint` has it; raises OptionError in words of ours."""
    try:
        found = msgspec.convert(value, hint, strict=True)
    except msgspec.ValidationError as error:
        raise OptionError(keyword, f"must be {_wanted(hint)}, not {_shown(value)}") from error
    for part in _parts(found):
        if isinstance(part, float) and not math.isfinite(part):
            raise OptionError(keyword, f"must be a finite number, not {_shown(value)}")
        if isinstance(part, str) and part != part.encode(errors="replace").decode():
            raise OptionError(keyword, f"must be text in UTF-8, not {_shown(value)}")
    return found


def _parts(value: Any) -> Iterable[Any]:
    return [part for each in value for part in _parts(each)] if type(value) is tuple else [value]


def _shown(value: Any) -> str:
    try:
        return quoted(value)
    except ValueError:  # of a number of more digits than Python writes
        return "a number of thousands of digits"


def _wanted(hint: Any) -> str:
    """The values that a type allows, in words."""
    kind, metas = unwrapped(hint)
    bounds: Mapping[str, Any] = {
        name: getattr(meta, name)
        for meta in metas
        for name in ("ge", "gt", "le", "lt", "min_length", "max_length", "pattern")
        if getattr(meta, name) is not None
    }
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType or origin is typing.Union:
        return " or ".join(_wanted(part) for part in parts if part is not type(None))
    if origin is Literal:
        return " or ".join(repr(part) for part in parts)
    if origin is tuple and parts[-1] is ...:
        return f"a list of {_wanted(parts[0])}"
    if origin is tuple:
        each = dict.fromkeys(_wanted(part) for part in parts)
        return f"{len(parts)} values, {'each ' if len(each) == 1 else ''}{' and '.join(each)}"
    if kind in (int, float):
        words = "a whole number" if kind is int else "a number"
        limits = [
            f"{text} {bounds[name]:,}"
            for name, text in (("ge", "at least"), ("gt", "above"), ("le", "at most"))
            if name in bounds
        ]
        return " ".join([words, " and ".join(limits)]).strip()
    if kind is bool:
        return "true or false"
    most = bounds.get("max_length", 0)
    if bounds.get("pattern") == NOT_BLANK:
        return f"text with more than spaces in it, of at most {most:,} characters"
    return f"text of 1 to {most:,} characters, none a control character" if most else "text"


def unwrapped(hint: Any) -> tuple[Any, list[Meta]]:
    """A type without its annotations, and those of them that bound it."""
    metas: list[Meta] = []
    while hasattr(hint, "__metadata__"):
        metas += [meta for meta in hint.__metadata__ if isinstance(meta, Meta)]
        hint = hint.__origin__
    return hint, metas
