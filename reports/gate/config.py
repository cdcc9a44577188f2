"""gate.toml: what a timing gate measures and by which rules, to be committed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from ..record.base import RecordError, Struct
from . import rules as rulebook
from .baseline import Subject
from .rules import Rules

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SCHEMA = 1
_ABOUT = """\
# What `tpprof gate ab` measures and what it allows. Paths lead from this file.
# Shares and seconds; `tpprof gate calibrate` finds the tolerances of a machine.
"""


class Config(Struct):
    """The file. calibrated: on what, when and from how many pairs the tolerances were found."""

    schema: int
    subject: Subject
    rules: Rules
    calibrated: str = ""


def load(path: Path) -> Config:
    """Read gate.toml; raises RecordError with one line for anything else."""
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror or error}; see tpprof gate init") from error
    except ValueError as error:
        raise RecordError(f"{path} is no TOML ({error})") from error
    if given.get("schema") != SCHEMA:
        told = f"schema {given.get('schema')} is unknown, this tpprof reads {SCHEMA}"
        raise RecordError(f"{path}: {told}")
    try:
        config = msgspec.convert(given, Config)
    except msgspec.ValidationError as error:
        raise RecordError(f"{path}: {error}") from error
    rulebook.check(config.rules)
    return config


def save(config: Config, path: Path) -> None:
    """Write gate.toml."""
    plain = msgspec.to_builtins(config)
    text = _ABOUT + f"schema = {config.schema}\n"
    if config.calibrated:
        text += f"calibrated = {_value(config.calibrated)}\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            text + _table("subject", plain["subject"]) + _table("rules", plain["rules"]),
            encoding="utf-8",
        )
    except OSError as error:
        raise RecordError(f"{path} cannot be written ({error.strerror or error})") from error


def _table(name: str, values: dict[str, Any]) -> str:
    """A TOML table, its own values before the tables in it. What is None is left out."""
    plain = {key: value for key, value in values.items() if not isinstance(value, dict)}
    lines = [f"{key} = {_value(value)}\n" for key, value in plain.items() if value is not None]
    inner = [_table(f"{name}.{key}", v) for key, v in values.items() if isinstance(v, dict) and v]
    return f"\n[{name}]\n" + "".join(lines) + "".join(inner)


def _value(value: Any) -> str:
    """A value of TOML, which is written as JSON writes it, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
