"""What to run, declared once.

The options of the command, the keywords of `tpprof.compare`, `run.toml`, the record, the job that
another process is given and the gate's subject all are these structs.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from ..base import RecordError
from .options import OptionError, OptionField, Spec, SpecT, fields_of
from .parts import (
    ONE_REQUEST,
    AccuracySpec,
    Cells,
    Extras,
    ModelSpec,
    Stopping,
    Workload,
    require_one_request,
)


class Subject(Spec, frozen=True):
    """What is run, whatever it is run for."""

    model: ModelSpec = ModelSpec()
    workload: Workload = Workload()
    cells: Cells = Cells()

    @classmethod
    def of(cls: type[SpecT], **given: Any) -> SpecT:
        """One of these from the keywords of its options; raises OptionError."""
        return changed(cls(), **given)


class RunSpec(Subject, frozen=True):
    """All that decides what a run measures: what is run, how long, and what is kept."""

    stopping: Stopping = Stopping()
    extras: Extras = Extras()
    accuracy: AccuracySpec = AccuracySpec()


@functools.cache
def options_of(whole: type[Spec]) -> dict[str, OptionField]:
    """All options of RunSpec or Subject, by keyword."""
    parts: list[type[Spec]] = [type(field.default) for field in msgspec.structs.fields(whole)]
    return {field.keyword: field for part in parts for field in fields_of(part).values()}


def changed(spec: SpecT, **given: Any) -> SpecT:
    """`spec` with the options that are given by keyword; raises OptionError."""
    known = options_of(type(spec))
    parts: dict[str, dict[str, Any]] = {}
    _require_known(given, known)
    for keyword, value in given.items():
        parts.setdefault(known[keyword].group, {})[known[keyword].name] = value
    return msgspec.structs.replace(
        spec,
        **{
            name: msgspec.structs.replace(getattr(spec, name), **values)
            for name, values in parts.items()
        },
    )


def part_of(part: type[SpecT], **given: Any) -> SpecT:
    """One part from the keywords of its options; raises OptionError."""
    known = {field.keyword: field for field in fields_of(part).values()}
    _require_known(given, known)
    return part(**{known[keyword].name: value for keyword, value in given.items()})


def _require_known(given: Iterable[str], known: Mapping[str, OptionField]) -> None:
    for keyword in given:
        if keyword not in known:
            near = difflib.get_close_matches(keyword, known, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise OptionError(keyword, f"is no option{hint}; known: {', '.join(known)}")


def value_of(spec: Subject, keyword: str) -> Any:
    """The value of an option, by keyword."""
    field = options_of(type(spec))[keyword]
    return getattr(getattr(spec, field.group), field.name)


def read(whole: type[SpecT], given: Any) -> SpecT:
    """A specification from plain data, as a file holds it; raises OptionError, or RecordError for
    what stands where it does not belong."""
    if isinstance(given, dict):
        _require_groups(given, whole)
        require_one_request(given.get(Workload.group, {}))
    try:
        return msgspec.convert(given, whole, strict=True)
    except msgspec.ValidationError as error:
        raise from_validation(error) from error


def _require_groups(given: dict[str, Any], whole: type[Spec]) -> None:
    """See that the parts of a specification are parts, and that no option stands beside them."""
    options, groups = options_of(whole), whole.__struct_fields__
    for name, value in given.items():
        if name in options and name not in groups:
            raise RecordError(f"`{name}` belongs under [{options[name].group}]")
        if name == Workload.group and isinstance(value, list):
            raise OptionError(name, ONE_REQUEST, "batch_size")
        if name in groups and not isinstance(value, dict):
            raise RecordError(f"`{name}` is a part with options of its own: write [{name}]")
        if name not in groups:
            near = difflib.get_close_matches(name, [*groups, *options], n=1)
            hint = f" (did you mean `{near[0]}`?)" if near else ""
            raise RecordError(f"unknown part `{name}`{hint}; known: {', '.join(groups)}")


def from_validation(error: msgspec.ValidationError) -> RecordError:
    """The error of ours that lies behind one of msgspec's, or one that says the same."""
    cause = error.__cause__
    return cause if isinstance(cause, RecordError) else RecordError(str(error))
