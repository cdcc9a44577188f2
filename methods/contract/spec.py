"""Spec strings: `fastv:layer=2,keep=320` reads like the call it makes."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from .composition import Composition
from .containment import contained, location
from .errors import InputError, first_line
from .method import Method
from .registry import method_class

PLUS = re.compile(r"\+(?=\s*(?:[A-Za-z]|$))")  # not that of 1e+3


class SpecError(InputError):
    """A spec string that names a knob or a value that does not exist."""


def parse(spec: str, keep: str | None = None) -> Method:
    """The method that `spec` describes: `name` or `name:knob=value,knob=value`, or several of them
    one behind another: `name:knob=value+name`.

    keep: the budget where the spec itself names none; methods without a budget do without, and
    compositions too: each of their parts names its own.
    Raises UnknownMethodError or SpecError, each with what is known.
    """
    parts = PLUS.split(spec.strip())
    if len(parts) == 1:
        return _parse_one(spec, keep)
    if any(part.strip() in ("", "vanilla") for part in parts):
        wrong = "vanilla" if any(part.strip() == "vanilla" for part in parts) else "nothing"
        raise SpecError(f"{spec!r}: {wrong} stands beside a +; write methods that prune, a+b")
    return Composition(parts=tuple(_parse_one(part, None) for part in parts))


def _parse_one(spec: str, keep: str | None) -> Method:
    name, _, assignments = spec.strip().partition(":")
    cls = method_class(name)
    values: dict[str, Any] = {}
    for assignment in filter(None, (part.strip() for part in assignments.split(","))):
        knob, equals, text = (part.strip() for part in assignment.partition("="))
        if not equals or not text:
            raise SpecError(f"{spec!r}: {assignment!r} is not knob=value")
        if knob in values:
            raise SpecError(f"{spec!r}: knob {knob!r} is given twice")
        values[knob] = _value(cls, knob, text)
    if keep is not None and "keep" not in values and any(k.name == "keep" for k in cls.knobs()):
        values["keep"] = _value(cls, "keep", keep)
    return _build(cls, spec, values)


def has_budget(method: Method) -> bool:
    """Whether `method` has the knob `keep`."""
    return any(knob.name == "keep" for knob in method.knobs())


def with_keep(method: Method, keep: str) -> Method:
    """The same method with its budget set; methods without a budget are returned as they are."""
    if not has_budget(method):
        return method
    return dataclasses.replace(method, keep=_value(type(method), "keep", keep))  # type: ignore[call-arg]


def format_spec(method: Method) -> str:
    """The shortest spec string that parses back to `method`."""
    if isinstance(method, Composition):
        return "+".join(format_spec(part) for part in method.parts)
    changed = [
        f"{field.name}={_text(value)}"
        for field in method.knobs()
        if (value := getattr(method, field.name)) != field.default
    ]
    return method.name + (":" + ",".join(changed) if changed else "")


def require_once(methods: Sequence[Method]) -> None:
    """Raises InputError for a method that is listed twice."""
    for index, method in enumerate(methods):
        if method in methods[:index]:
            spec = format_spec(method)
            again = spec + ("," if ":" in spec.rpartition("+")[2] else ":") + "tag=again"
            raise InputError(f"{spec} is listed twice; to have it twice, name one {again}")


def _build(cls: type[Method], spec: str, values: dict[str, Any]) -> Method:
    undecorated = [k for k, value in vars(cls).items() if isinstance(value, dataclasses.Field)]
    if undecorated:
        raise SpecError(
            f"{cls.name}: its knob {undecorated[0]} is none yet: write @dataclass(frozen=True) "
            f"between @register and class {cls.__name__}"
        )
    try:
        with contained():
            return cls(**values)
    except ValueError as error:
        raise SpecError(f"{spec!r}: {error}") from error
    except Exception as error:
        at = location(error, cls)
        raise SpecError(f"{spec!r}: it cannot be made ({first_line(error)}){at}") from error


def _value(cls: type[Method], knob: str, text: str) -> Any:
    hints = typing.get_type_hints(cls)
    known = [field.name for field in cls.knobs()]
    if knob not in known:
        near = difflib.get_close_matches(knob, known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        has = f"its knobs are: {', '.join(known)}" if known else "it has no knobs"
        raise SpecError(f"{cls.name} has no knob {knob!r}{hint}; {has}")
    kinds = _alternatives(hints[knob])
    for kind in kinds:
        try:
            value = _convert(kind, text)
        except (ValueError, ZeroDivisionError):
            continue
        if value == 0 and kind is Fraction and int in kinds:  # no share of a budget is none
            continue
        return value
    wanted = " or ".join(map(_describe, kinds))
    raise SpecError(f"{cls.name}: {knob}={text} is not {wanted}")


def _alternatives(hint: Any) -> tuple[Any, ...]:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return typing.get_args(hint)
    return (hint,)


def _convert(kind: Any, text: str) -> Any:
    if kind is types.NoneType:
        if text.lower() in ("auto", "none"):
            return None
        raise ValueError(text)
    if kind is bool:
        return {"true": True, "1": True, "false": False, "0": False}[_known_bool(text)]
    if kind is Fraction:
        return _fraction(text)
    if typing.get_origin(kind) is typing.Literal:
        if text not in typing.get_args(kind):
            raise ValueError(text)
        return text
    return kind(text)


def _known_bool(text: str) -> str:
    lowered = text.lower()
    if lowered not in ("true", "false", "1", "0"):
        raise ValueError(text)
    return lowered


def _fraction(text: str) -> Fraction:
    share = Fraction(text[:-1]) / 100 if text.endswith("%") else Fraction(text)
    if not 0 <= share <= 1:
        raise ValueError(text)
    return share


def _describe(kind: Any) -> str:
    if kind is types.NoneType:
        return "'auto'"
    if kind is Fraction:
        return "a share (0.25, 1/9 or 25%)"
    if kind is bool:
        return "true or false"
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(repr(option) for option in typing.get_args(kind))
    return {int: "a whole number", float: "a number"}.get(kind, str(kind))


def _text(value: Any) -> str:
    if value is None:
        return "auto"
    if isinstance(value, Fraction):
        return str(value) if value != 1 else "1/1"
    return str(value).lower() if isinstance(value, bool) else str(value)
