"""The cells of a comparison: one method under one attention policy and one runtime."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

from ...methods import Method, format_spec, parse
from ...methods.contract.errors import InputError
from ...methods.contract.policies import Policy, RuntimeName
from ...methods.contract.request import BudgetError, Request
from ...methods.engine.run import Trace
from ...methods.engine.runtime import Runtime
from ...methods.engine.runtimes import make_runtime
from ...reports.record import schema
from .. import cost
from ..models.model import Model


@dataclass
class BenchCell:
    """One row in the making: what runs, and what is saved of it. `method` is the cell's own: what a
    plug-in keeps on it reaches no other cell."""

    method: Method
    policy: Policy
    runtime: Runtime
    saved: schema.Cell

    @property
    def alive(self) -> bool:
        return not self.saved.error


def make_cells(
    methods: list[Method],
    policies: Sequence[Policy],
    runtimes: Sequence[RuntimeName],
    request: Request,
    model: Model,
) -> list[BenchCell]:
    """Vanilla first; a method that reads attention once under each policy; all of them once under
    each runtime. Raises InputError for a method that is listed twice."""
    vanilla = parse("vanilla")
    listed = methods if vanilla in methods else [vanilla, *methods]
    listed = sorted(listed, key=lambda method: method != vanilla)  # stable: the rest as given
    for index, method in enumerate(listed):
        if method in listed[:index]:
            spec = format_spec(method)
            again = spec + ("," if ":" in spec else ":") + "tag=again"
            raise InputError(f"{spec} is listed twice; to measure it twice, name one {again}")
    return [
        _cell(method, policy, name, reads, model)
        for name in runtimes
        for method in listed
        for reads in [reads_attention(method, request)]
        for policy in (policies if reads else ("rows",))
    ]


def _cell(
    method: Method, policy: Policy, name: RuntimeName, reads: bool, model: Model
) -> BenchCell:
    runtime = make_runtime(name, model)
    saved = schema.Cell(
        method=format_spec(method),
        name=method.name,
        attention=policy,
        reads_attention=reads,
        runtime=name,
    )
    return BenchCell(copy.deepcopy(method), policy, runtime, saved)


def reads_attention(method: Method, request: Request) -> bool:
    """Whether the method's plan reads attention rows anywhere; checks that it can be planned."""
    try:
        plan = method.plan(request)
    except BudgetError as error:
        raise BudgetError(f"{format_spec(method)}: {error}") from error
    decoder = any(stage.rows for stage in plan.stages)
    return decoder or any(stage.rows for stage in plan.encoder_stages)


def keep_counts(cell: BenchCell, trace: Trace, model: Model, request: Request) -> None:
    """Save what a request of the cell showed, but for its times."""
    plan, saved = cell.method.plan(request), cell.saved
    items = cost.items(model.shape, request, plan, trace.ledger, model.dtype.itemsize)
    saved.fallback = cell.runtime.fallback
    saved.visual_per_layer = list(trace.visual_per_layer)
    saved.tokens_per_layer = list(trace.ledger.tokens)
    saved.kv_bytes_prefill = list(trace.kv_bytes.prefill)
    saved.kv_bytes_decode = list(trace.kv_bytes.decode)
    saved.generated_tokens = trace.tokens.shape[1]
    saved.cost = cost.as_record(items)
    saved.note = plan.note
