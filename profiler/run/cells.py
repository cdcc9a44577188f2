"""The engine's cells of a comparison: one method under one attention policy and one runtime."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from ...methods import Method, Plan, format_spec, parse
from ...methods.contract.errors import InputError
from ...methods.contract.plan_checks import plan_for
from ...methods.contract.policies import Policy, RuntimeName
from ...methods.contract.spec import require_once
from ...methods.engine.run import require_backend
from ...methods.engine.runtimes import make_runtime
from ...methods.engine.runtimes.runtime import Runtime
from ...reports.record import schema
from ..workload import Preparation
from .engine_cell import EngineCell


def make_cells(
    methods: list[Method],
    policies: Sequence[Policy],
    runtimes: Sequence[RuntimeName],
    prepare: Preparation,
) -> list[EngineCell]:
    """Vanilla first; a method that reads attention once under each policy; all of them once under
    each runtime. One that cannot be planned is a row with the reason.

    Raises InputError for a method that is listed twice, and where no method can be planned.
    """
    vanilla = parse("vanilla")
    listed = methods if vanilla in methods else [vanilla, *methods]
    listed = sorted(listed, key=lambda method: method != vanilla)  # stable: the rest as given
    require_once(listed)
    planned = [_planned(method, prepare) for method in listed]
    refused = [plan for plan, _ in planned if isinstance(plan, InputError)]
    if refused and len(refused) == len(listed) - 1:
        raise refused[0]
    return [
        _cell(method, plan, prepare, own, policy, make_runtime(name, prepare.model))
        for name in runtimes
        for method, (plan, own) in zip(listed, planned, strict=True)
        for policy in (policies if _reads_attention(plan) else ("rows",))
    ]


def _cell(
    method: Method,
    plan: Plan | InputError,
    whole: Preparation,
    own: Preparation | None,
    policy: Policy,
    runtime: Runtime,
) -> EngineCell:
    error = str(plan) if isinstance(plan, InputError) else ""
    saved = schema.Cell(
        method=format_spec(method),
        name=method.name,
        attention=policy,
        reads_attention=_reads_attention(plan),
        runtime=runtime.name,
        error=error,
    )
    known = plan if isinstance(plan, Plan) else None
    return EngineCell(copy.deepcopy(method), policy, runtime, saved, whole, known, own)


def without_counts(saved: schema.Cell, error: str) -> schema.Cell:
    """A cell that failed: its name, its samples and why."""
    kept = ("method", "name", "attention", "reads_attention", "runtime", "parts", "samples")
    return schema.Cell(**{name: getattr(saved, name) for name in kept}, error=error)


def _planned(method: Method, prepare: Preparation) -> tuple[Plan | InputError, Preparation | None]:
    """The plan of a method and the preparation of its request, or why there is none."""
    try:
        own = prepare.resized(method)
        plan = plan_for(method, own.request)
        require_backend(plan, prepare.model.backend)
    except InputError as error:
        return type(error)(f"{format_spec(method)}: {error}"), None
    return plan, own


def _reads_attention(plan: Plan | InputError) -> bool:
    """Whether a plan reads attention rows anywhere."""
    if isinstance(plan, InputError):
        return False
    return any(stage.rows for stage in plan.stages)
