"""Whether two records measured the same thing on the same machine."""

from __future__ import annotations

from typing import Any

import msgspec

from .record import Record

MACHINE = (
    ("device",), ("device_uuid",), ("cpu",), ("threads",), ("packages",), ("cuda",),
    ("gpu", "driver"), ("git", "tpprof", "commit"), ("git", "tpprof", "dirty"), ("plugins",),
    ("determinism",), ("variables",),
)  # fmt: skip
"""Places in the environment that must agree for samples to be put together."""
SETTINGS = ("attention", "runtimes", "keep", "equalize", "isolate", "samples", "seed", "plugins")
"""Settings that say what is measured; the others say for how long."""


def differences(first: Record, second: Record) -> list[str]:
    """What keeps samples of the two from being put together, one text each."""
    return [
        f"{name} is {_short(right)}, was {_short(left)}"
        for (name, left), (_, right) in zip(_identity(first), _identity(second), strict=True)
        if left != right
    ]


def other_machine(first: Record, second: Record) -> list[str]:
    """What keeps absolute times of the two from being compared; the code measured may differ."""
    places = [place for place in MACHINE if place[0] not in ("git", "plugins")]
    pairs = [
        (" ".join(place), _at(first.environment, place), _at(second.environment, place))
        for place in places
    ]
    return [
        f"{n} is {_short(right)}, was {_short(left)}" for n, left, right in pairs if left != right
    ]


def _identity(record: Record) -> list[tuple[str, Any]]:
    model, request = msgspec.to_builtins(record.model), msgspec.to_builtins(record.request)
    settings = msgspec.to_builtins(record.settings)
    model.pop("reason")
    cells = [f"{cell.method} ({cell.attention}, {cell.runtime})" for cell in record.cells]
    return [
        ("tpprof", record.tpprof),
        *((f"model {name}", value) for name, value in model.items()),
        ("workload", record.workload),
        *((f"request {name}", value) for name, value in request.items()),
        ("cells", cells),
        *((name, settings[name]) for name in SETTINGS),
        *((" ".join(place), _at(record.environment, place)) for place in MACHINE),
    ]


def _at(environment: Any, place: tuple[str, ...]) -> Any:
    for key in place:
        environment = environment.get(key) if isinstance(environment, dict) else None
    return environment


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."
