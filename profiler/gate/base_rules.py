"""Which rules judge: where a repository holds them, those of the base, and what the head changes is
said. Else a change could bring the rules that let it pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from ...reports import units
from ...reports.gate.config import Config, load_config
from ...reports.gate.verdicts import Judged, Verdict
from ...reports.record.base import RecordError
from .arms import Arm, in_tree


def base_config(path: Path | None, base: Arm) -> tuple[Config | None, str]:
    """The gate.toml of the base, and a note where its rules are not known: None where there is no
    other one than that at `path`."""
    theirs = in_tree(path, base) if path is not None else None
    if path is None or theirs is None or (theirs.exists() and theirs.samefile(path)):
        return None, ""
    if not theirs.exists():
        return None, f"the base has no {path.name}: the rules are those of the head"
    try:
        return load_config(theirs), ""
    except RecordError as error:
        why = str(error).replace(str(theirs), path.name)
        return None, f"the rules are those of the head, for those of the base cannot be read: {why}"


def changes(base: Config, head: Config) -> str:
    """How the rules of the head differ, as a note; "" if they do not."""
    listed = _differing(msgspec.to_builtins(base.rules), msgspec.to_builtins(head.rules))
    if not listed:
        return ""
    return f"THE HEAD CHANGES THE RULES, and those of the base judge: {', '.join(listed)}"


def no_longer_measured(base: Config, head: Config) -> list[Judged]:
    """What the gate.toml of the base has measured, and that of the head does not."""
    rule = "in the gate.toml of the base, and not in that of the head"
    before, after = (msgspec.to_builtins(c.subject) for c in (base, head))
    rows = [
        Judged(spec, "all", Verdict.NOT_JUDGED, "there", "missing", units.NA, rule)
        for spec in base.subject.cells.methods
        if spec not in head.subject.cells.methods
    ]
    before["cells"].pop("methods")
    after["cells"].pop("methods")
    if listed := _differing(before, after):
        what = f"the head measures something else: {', '.join(listed)}"
        values = units.NA, units.NA, units.NA
        rows.append(Judged("all cells", "gate.toml", Verdict.NOT_JUDGED, *values, what))
    return rows


def _differing(before: Any, after: Any, name: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            line
            for key in dict.fromkeys([*before, *after])
            for line in _differing(before.get(key), after.get(key), f"{name} {key}".strip())
        ]
    return [f"{name} {before} -> {after}"] if before != after else []
