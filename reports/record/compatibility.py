"""Whether two records measured the same thing on the same machine."""

from __future__ import annotations

from typing import Any

import msgspec

from .environment import Environment
from .schema import Record
from .spec import value_of

OPTIONS = (
    *("attention", "runtime", "keep", "equalize", "isolate", "samples", "seed", "plugin"),
    *("callable", "python", "annotations", "images", "questions"),
)
"""Options that say what is measured; the others say for how long, or show in what was measured."""


def differences(
    first: Record, second: Record, names: tuple[str, str] = ("the first", "the second")
) -> list[str]:
    """What keeps samples of the two from being put together, one text each; `names` is what the
    records are called."""
    return [
        line
        for (what, left), (_, right) in zip(_identity(first), _identity(second), strict=True)
        for line in _told(what, left, right, names)
    ]


def other_machine(first: Record, second: Record) -> list[str]:
    """What keeps absolute times of the two from being compared; the code measured may differ."""
    pairs = zip(_machine(first.environment), _machine(second.environment), strict=True)
    return [line for (what, left), (_, right) in pairs for line in _told(what, left, right)]


def _identity(record: Record) -> list[tuple[str, Any]]:
    model, request = msgspec.to_builtins(record.model), msgspec.to_builtins(record.request)
    model.pop("reason")
    cells = [f"{cell.method} ({cell.attention}, {cell.runtime})" for cell in record.cells]
    return [
        ("tpprof", record.tpprof),
        *((f"model {name}", value) for name, value in model.items()),
        ("workload", msgspec.to_builtins(record.spec.workload)),
        *((f"request {name}", value) for name, value in request.items()),
        ("cells", cells),
        *((name, value_of(record.spec, name)) for name in OPTIONS),
        *_machine(record.environment),
        ("git tpprof commit", record.environment.git.tpprof.commit),
        ("git tpprof dirty", record.environment.git.tpprof.dirty),
        ("plugins", record.environment.plugins),
    ]


def _machine(environment: Environment) -> list[tuple[str, Any]]:
    """What must agree of the machine and its packages."""
    gpu = environment.gpu
    return [
        ("device", environment.device),
        ("device_uuid", environment.device_uuid),
        ("cpu", environment.cpu),
        ("threads", environment.threads),
        ("packages", environment.packages),
        ("cuda", environment.cuda),
        ("gpu driver", gpu.driver if gpu else None),
        ("determinism", msgspec.to_builtins(environment.determinism)),
        ("variables", environment.variables),
    ]


def _told(
    what: str, left: Any, right: Any, names: tuple[str, str] = ("the first", "the second")
) -> list[str]:
    """How two values differ, one text for each key of theirs that does."""
    if left == right:
        return []
    if isinstance(left, dict) and isinstance(right, dict):
        return [
            line
            for key in dict.fromkeys([*left, *right])
            for line in _told(f"{what} {key}", left.get(key), right.get(key), names)
        ]
    if isinstance(left, list) and isinstance(right, list):
        ours, theirs = ([str(value) for value in values] for values in (left, right))
        sides = [
            [value for value in ours if value not in theirs],
            [value for value in theirs if value not in ours],
        ]
        only = [
            f"only in {name}: {_listed(values)}"
            for name, values in zip(names, sides, strict=True)
            if values
        ]
        return [f"{what}: {'; '.join(only) or 'not in the same order, or not as often'}"]
    mine, other = ("none" if value is None else str(value) for value in (left, right))
    return [f"{what} is {_cut(other, mine)}, was {_cut(mine, other)}"]


def _listed(values: list[str], most: int = 6) -> str:
    """The first values, each cut, and how many more there are."""
    more = f" and {len(values) - most} more" if len(values) > most else ""
    return ", ".join(_cut(value) for value in values[:most]) + more


def _cut(text: str, other_text: str = "") -> str:
    """`text`, cut to 80 characters; where another begins alike, from where they differ."""
    if len(text) <= 80:
        return text
    pairs = enumerate(zip(text, other_text, strict=False))
    alike = next((index for index, (a, b) in pairs if a != b), 0)
    start = alike - 20 if alike > 60 else 0
    cut = ("..." if start else "") + text[start:]
    return cut if len(cut) <= 80 else cut[:77] + "..."
