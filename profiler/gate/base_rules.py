"""Which rules judge: where a repository holds them, those of the base, and what the head changes of
them, or of a baseline, is said. Else a change could bring what lets it pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from ...reports import units
from ...reports.gate.baseline import load_baseline
from ...reports.gate.config import Config, load_config
from ...reports.gate.counts import compare_counts
from ...reports.gate.verdicts import Judged, NoVerdictError, Verdict
from ...reports.record.base import RecordError
from ...reports.record.spec import Subject
from .arms import Arm, arm, in_tree


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
    listed = differing(msgspec.to_builtins(base.rules), msgspec.to_builtins(head.rules))
    if not listed:
        return ""
    return f"THE HEAD CHANGES THE RULES, and those of the base judge: {', '.join(listed)}"


def no_longer_measured(base: Config, head: Config) -> list[Judged]:
    """What the gate.toml of the base has measured, and that of the head does not."""
    rule = "in the gate.toml of the base, and not in that of the head"
    before, after = (msgspec.to_builtins(c.subject) for c in (base, head))
    rows = [
        Judged(spec, "all", Verdict.NOT_JUDGED, "there", "missing", units.NA, rule)
        for spec in base.subject.cells.named
        if spec not in head.subject.cells.named
    ]
    for named in ("methods", "callables"):
        before["cells"].pop(named, None)
        after["cells"].pop(named, None)
    if listed := differing(before, after):
        what = f"the head measures something else: {', '.join(listed)}"
        values = units.NA, units.NA, units.NA
        rows.append(Judged("all cells", "gate.toml", Verdict.NOT_JUDGED, *values, what))
    return rows


def baseline_changes(path: Path, since: str) -> str:
    """How the baseline at `path` differs from that of a commit, as a note; "" if it does not, or
    `since` names none. Raises InputError for a commit that does not exist."""
    if not since:
        return ""
    with arm("since", since, []) as base:
        theirs = in_tree(path, base)
        if theirs is None or not theirs.exists():
            return f"{since} has no {path.name}: this one is new"
        try:
            old, new = load_baseline(theirs), load_baseline(path)
        except NoVerdictError as error:
            return f"{path.name} cannot be held against that of {since}: {error}"
    before, after = ({"memory": held.memory, **_plain(held.subject)} for held in (old, new))
    listed = differing(before, after)
    rows = compare_counts(old.snapshot, new.snapshot, complete=True)
    listed += [
        f"{row.cell} {row.metric} {row.before} -> {row.after}"
        for row in rows
        if row.verdict is not Verdict.PASS
    ]
    if not listed:
        return ""
    return f"THE BASELINE DIFFERS FROM THAT OF {since}: {', '.join(listed)}"


def _plain(subject: Subject) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(subject)
    return plain


def differing(before: Any, after: Any, name: str = "") -> list[str]:
    """Where two values of plain data differ, each as `name of the field: before -> after`."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            line
            for key in dict.fromkeys([*before, *after])
            for line in differing(before.get(key), after.get(key), f"{name} {key}".strip())
        ]
    return [f"{name} {before} -> {after}"] if before != after else []
