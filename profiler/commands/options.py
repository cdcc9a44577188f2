"""Options of the commands: those of a run come from its specification, the others stand here."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar, get_args, get_origin

import typer
from typer.core import TyperCommand

from ...reports.record.spec import (
    LONGEST,
    LONGEST_PROMPT,
    ONE_REQUEST,
    OptionError,
    OptionField,
    Spec,
    Subject,
    Workload,
    changed,
    fields_of,
    flag_of,
    unwrapped,
)
from ...reports.record.spec.texts import sizes, two_counts
from ...reports.sanitize import one_line, quoted, say

SubjectT = TypeVar("SubjectT", bound=Subject)
Command = Callable[..., None]

PANELS = {
    "model": "What runs",
    "cells": "What runs",
    "workload": "The request",
    "stopping": "How long",
    "accuracy": "What is asked",
    "extras": "What is shown and kept",
}
"""Under which heading `--help` lists the options of each part of a specification."""
SHOWN = PANELS["extras"]
RIVALS = {
    "image": ("visual_tokens",),
    "image_size": ("visual_tokens",),
    "visual_tokens": ("image", "image_size"),
    "prompt": ("text_tokens",),
    "text_tokens": ("prompt",),
    **dict.fromkeys(("min_rounds", "max_rounds", "max_seconds", "target_ci"), ("rounds",)),
}
"""What an option takes the place of."""
SHORT = {"model": "-m"}


class Format(str, Enum):
    """How a record is printed; `long` is CSV, one row for every sample, phase and method."""

    table = "table"
    json = "json"
    csv = "csv"
    markdown = "markdown"
    latex = "latex"
    long = "long"


FormatOption = Annotated[
    Format,
    typer.Option(
        "--format",
        "-f",
        help="How to print the result; long: CSV, sample by sample.",
        rich_help_panel=SHOWN,
    ),
]
HtmlOption = Annotated[
    Path | None,
    typer.Option("--html", help="Write the report as one HTML file too.", rich_help_panel=SHOWN),
]
FiguresOption = Annotated[
    Path | None,
    typer.Option(
        "--figures", help="Write its figures as PNG and PDF here too.", rich_help_panel=SHOWN
    ),
]
PhasesOption = Annotated[
    bool,
    typer.Option(
        "--phases",
        help="Add a row for every phase: launches, waits, busy time.",
        rich_help_panel=SHOWN,
    ),
]
WindowOption = Annotated[
    list[str] | None,
    typer.Option(
        "--window",
        help="Add what a stopwatch of the field would have said of the same run (`all`; see docs).",
        rich_help_panel=SHOWN,
    ),
]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")]
PolicyOption = Annotated[str, typer.Option(help="rows, maps or published.")]
PluginOption = Annotated[
    list[str] | None, typer.Option("--plugin", help="A .py file or module that registers methods.")
]


class StrictCommand(TyperCommand):
    """A command that refuses an option which is given twice where one is meant, and any text that
    can be none: an empty one, one that is no UTF-8 or holds control characters, or one that is
    longer than all that it could name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        values, rest, order = self.make_parser(ctx).parse_args(args=list(args))
        named = {parameter.name: _called(parameter) for parameter in self.get_params(ctx)}
        for name, value in values.items():
            for text in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(text, str):
                    _require_text(named.get(name, name), text)
        for text in rest:
            _require_text("an argument", text)
        for parameter in order:
            once = parameter.param_type_name == "option" and not parameter.multiple
            if once and order.count(parameter) > 1:
                _fail_given_twice(parameter)
        return super().parse_args(ctx, args)


def _fail_given_twice(parameter: Any) -> NoReturn:
    of_request = {field.keyword for field in fields_of(Workload).values()}
    why = "takes one value"
    if parameter.name in of_request:
        why = ONE_REQUEST.replace("batch_size", flag_of("batch_size"))
    fail(f"{parameter.opts[0]} is given twice: it {why}")


def _called(parameter: Any) -> str:
    options = [name for name in parameter.opts if name.startswith("--")]
    return str(options[0] if options else parameter.name.upper())


def _require_text(name: str, text: str) -> None:
    """Ends the program for a text that no option or argument can have."""
    most = LONGEST_PROMPT if name == "--prompt" else LONGEST
    if not text.strip():
        fail(f"{name} is empty (an unset variable?): give a value, or leave it out")
    if len(text) > most:
        fail(f"{name} is {len(text):,} characters long; at most {most:,}")
    try:
        text.encode()
    except UnicodeEncodeError:
        fail(f"{name} {quoted(text)} holds bytes that are no UTF-8")
    if name != "--prompt" and one_line(text) != text:
        fail(f"{name} {quoted(text)} holds control characters")


@dataclass(frozen=True)
class Typed:
    """What a command line says of a specification. values: the options that were typed, by keyword;
    several: the values of those that take more than one here; usual: what holds for this command
    where neither they nor a file say otherwise."""

    values: Mapping[str, Any] = field(default_factory=dict)
    several: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    usual: Mapping[str, Any] = field(default_factory=dict)

    def alone(self, whole: type[SubjectT]) -> SubjectT:
        """The specification that they make by themselves."""
        return changed(whole(), **{**self.usual, **self.values})

    def over(self, earlier: SubjectT) -> SubjectT:
        """`earlier` with what was typed, which takes the place of what excludes it."""
        rivals = {rival: None for keyword in self.values for rival in RIVALS.get(keyword, ())}
        return changed(earlier, **{**rivals, **self.values})


def takes(
    *parts: type[Spec],
    omit: tuple[str, ...] = (),
    several: tuple[str, ...] = (),
    usual: Mapping[str, Any] | None = None,
) -> Callable[[Command], Command]:
    """Give a command the options of the parts of a specification, in the place of its parameter
    `typed`, which is told what was typed. omit: keywords that it does not take. several: those that
    it takes a comma-separated list of. usual: its own defaults, by keyword."""
    options = {
        option.keyword: option
        for part in parts
        for option in fields_of(part).values()
        if option.keyword not in omit
    }

    def give(command: Command) -> Command:
        own = dict(inspect.signature(command, eval_str=True).parameters)
        own.pop("typed")

        @functools.wraps(command)
        def run(context: typer.Context, **given: Any) -> None:
            texts = {keyword: given.pop(keyword) for keyword in options}
            typed = {name: text for name, text in texts.items() if _is_typed(context, name)}
            listed = {name: typed.pop(name) for name in several if name in typed}
            values = {name: parse(options[name], text) for name, text in typed.items()}
            lists = {
                name: tuple(parse(options[name], part.strip()) for part in text.split(","))
                for name, text in listed.items()
            }
            command(typed=Typed(values, lists, usual or {}), **given)

        keyword_ = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            inspect.Parameter("context", keyword_, annotation=typer.Context),
            *(p.replace(kind=keyword_) for p in own.values() if p.default is p.empty),
            *(
                _parameter(option, usual or {}, several=option.keyword in several)
                for option in options.values()
            ),
            *(p.replace(kind=keyword_) for p in own.values() if p.default is not p.empty),
        ]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return give


def _is_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _parameter(
    option: OptionField, usual: Mapping[str, Any], *, several: bool
) -> inspect.Parameter:
    """An option as typer takes it. All are text: what they can be is said in one place."""
    default = usual.get(option.keyword, option.default)
    about = f"{option.about} Several: a,b." if several else option.about
    shared: dict[str, Any] = {"help": about, "rich_help_panel": PANELS[option.group]}
    if option.keyword == "methods":
        info: Any = typer.Argument(help=option.about, metavar="METHOD", show_default=False)
        return _keyword_only(option.keyword, list[str] | None, info, None)
    flag = flag_of(option.keyword)
    names = [flag, SHORT[option.keyword]] if option.keyword in SHORT else [flag]
    if option.is_flag:
        return _keyword_only(option.keyword, bool, typer.Option(*names, **shared), False)
    info = typer.Option(*names, metavar=_metavar(option), **shared)
    if option.form == "each":
        return _keyword_only(option.keyword, list[str] | None, info, None)
    text = None if default is None else _text(option, default)
    return _keyword_only(option.keyword, str | None, info, text)


def _keyword_only(name: str, kind: Any, info: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[kind, info], default=default
    )


def _metavar(option: OptionField) -> str:
    fixed = {"sizes": "HxW,...", "pair": "N,N", "list": "A,B", "share": "SHARE"}.get(option.form)
    return fixed or {int: "INTEGER", float: "NUMBER"}.get(_plain(option.type), "TEXT")


def _text(option: OptionField, value: Any) -> str:
    """A value as it is typed."""
    if option.form == "share":
        return f"{value * 100:g}%"
    if option.form == "sizes":
        return ",".join("x".join(map(str, size)) for size in value)
    joint = {"pair": ",", "list": ","}.get(option.form)
    return joint.join(map(str, value)) if joint else str(value)


def parse(option: OptionField, text: Any) -> Any:
    """The value that a text stands for; raises OptionError for a text that stands for none. Whether
    the option can have it, the specification says."""
    if option.is_flag:
        return text
    if option.form == "each":
        return tuple(text or ())
    if option.form == "list":
        return tuple(part.strip() for part in text.split(","))
    if option.form == "share":
        return share(option.keyword, text)
    if option.form == "sizes":
        return sizes(option.keyword, text)
    if option.form == "pair":
        return two_counts(option.keyword, text, ",", "BEFORE,AFTER, as 35,25")
    return _number(option.keyword, text, _plain(option.type))


def _number(keyword: str, text: str, kind: Any) -> Any:
    if kind is int:
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text.strip()):
            raise OptionError(keyword, f"{quoted(text)} is not a whole number")
        return int(text)
    if kind is float:
        if not re.fullmatch(r"[+-]?[0-9.]{1,18}(e[+-]?[0-9]{1,3})?", text.strip().lower()):
            raise OptionError(keyword, f"{quoted(text)} is not a number")
        try:
            return float(text)
        except ValueError:
            raise OptionError(keyword, f"{quoted(text)} is not a number") from None
    return text


def _plain(hint: Any) -> Any:
    """int, float or str: what a text becomes, bounds and None aside."""
    kind, _ = unwrapped(hint)
    parts = [unwrapped(part)[0] for part in get_args(kind) if part is not type(None)]
    return parts[0] if parts and get_origin(kind) is not None and len(parts) == 1 else kind


def share(keyword: str, text: str) -> float:
    """0.02 or 2%; raises OptionError."""
    number = text.removesuffix("%")
    try:
        found = _number(keyword, number, float) / (100 if text.endswith("%") else 1)
    except OptionError:
        raise OptionError(keyword, f"{quoted(text)} is not a share, as 0.02 or 2%") from None
    if found >= 1 and not text.endswith("%"):
        raise OptionError(
            keyword, f"{quoted(text)} is not a share, as 0.02 or 2%; did you mean {text}%?"
        )
    return float(found)


def fail(message: str) -> NoReturn:
    """End with one line and exit code 2."""
    say(f"tpprof: {message}")
    raise SystemExit(2)
