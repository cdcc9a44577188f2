"""The unpruned model."""

from __future__ import annotations

from dataclasses import dataclass

from . import Method, Plan, Request, register


@register("vanilla")
@dataclass(frozen=True)
class Vanilla(Method):
    """Keep every visual token: the row that all others are measured against.

    Paper: none
    """

    def plan(self, request: Request) -> Plan:
        return Plan()
