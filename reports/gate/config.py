"""gate.toml: what a timing gate measures and by which rules, to be committed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import tomlkit

from ..outputs import write
from ..record.base import RecordError, Struct, require_schema
from ..record.spec import Subject, from_validation
from ..record.spec_files import parsed, plain
from .rules import Rules, check_rules

SCHEMA = 2
ABOUT = """\
What `tpprof gate ab` measures and what it allows. Paths lead from this file.
Shares and seconds; `tpprof gate calibrate` finds the tolerances of a machine."""


class Config(Struct):
    """The file. calibrated: on what, when and from how many pairs the tolerances were found."""

    schema: int
    subject: Subject
    rules: Rules
    calibrated: str = ""


def load_config(path: Path) -> Config:
    """Read gate.toml; raises RecordError with one line for anything else, and for one by which
    nothing could fail."""
    given = parsed(path, "tpprof gate init").unwrap()
    require_schema(path, given.get("schema"), SCHEMA, "make it anew with `tpprof gate init`")
    try:
        config = msgspec.convert(given, Config)
    except msgspec.ValidationError as error:
        raise RecordError(f"{path}: {from_validation(error)}") from error
    if not config.subject.cells.named:
        raise RecordError(f"{path}: subject.cells.methods names no method: nothing is measured")
    try:
        check_rules(config.rules)
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from error
    return config


def save_config(config: Config, path: Path) -> None:
    """Write gate.toml. Comments and the order of lines that are there already stay. Raises
    OutputError."""
    document = parsed(path, "tpprof gate init") if path.exists() else _blank()
    _merge(document, plain(config))
    content = tomlkit.dumps(document).rstrip("\n") + "\n"
    write(path, content.encode(), "text", overwrite=True)


def _blank() -> tomlkit.TOMLDocument:
    document = tomlkit.document()
    for line in ABOUT.splitlines():
        document.add(tomlkit.comment(line))
    return document


def _merge(table: Any, values: dict[str, Any]) -> None:
    """Put the values into a table; those that it has already are not written anew."""
    for name, value in values.items():
        if isinstance(value, dict) and isinstance(table.get(name), dict):
            _merge(table[name], value)
        elif name not in table or table[name] != value:
            table[name] = value
