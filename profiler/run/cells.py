"""The cells of a comparison: one method under one attention policy and one runtime."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from ...methods import Method, Plan, format_spec, parse
from ...methods.contract.containment import MethodFaultError
from ...methods.contract.errors import InputError
from ...methods.contract.plan_checks import plan_for
from ...methods.contract.policies import Policy, RuntimeName
from ...methods.engine.ledger import Ledger
from ...methods.engine.run import Trace, require_backend
from ...methods.engine.runtimes import make_runtime
from ...methods.engine.runtimes.runtime import Runtime
from ...reports.record import schema
from .. import cost
from ..workload import Preparation
from .hidden_state import Answer


@dataclass
class BenchCell:
    """One row in the making: what runs, and what is saved of it.

    method: the cell's own: what a plug-in keeps on it reaches no other cell. plan: None where there
    is none, which `saved.error` says. prepare: of its own request, in which its method may have
    the picture resized; None where there is no plan. ledger: of the first request. answer: of the
    last warm-up, which each timed request must give.
    """

    method: Method
    policy: Policy
    runtime: Runtime
    saved: schema.Cell
    plan: Plan | None = None
    prepare: Preparation | None = None
    ledger: Ledger | None = None
    answer: Answer | None = None

    @property
    def alive(self) -> bool:
        return not self.saved.error


def make_cells(
    methods: list[Method],
    policies: Sequence[Policy],
    runtimes: Sequence[RuntimeName],
    prepare: Preparation,
) -> list[BenchCell]:
    """Vanilla first; a method that reads attention once under each policy; all of them once under
    each runtime. One that cannot be planned is a row with the reason.

    Raises InputError for a method that is listed twice, and where no method can be planned.
    """
    vanilla = parse("vanilla")
    listed = methods if vanilla in methods else [vanilla, *methods]
    listed = sorted(listed, key=lambda method: method != vanilla)  # stable: the rest as given
    for index, method in enumerate(listed):
        if method in listed[:index]:
            spec = format_spec(method)
            again = spec + ("," if ":" in spec.rpartition("+")[2] else ":") + "tag=again"
            raise InputError(f"{spec} is listed twice; to measure it twice, name one {again}")
    planned = [_planned(method, prepare) for method in listed]
    refused = [plan for plan, _ in planned if isinstance(plan, InputError)]
    if refused and len(refused) == len(listed) - 1:
        raise refused[0]
    return [
        _cell(method, plan, own, policy, make_runtime(name, prepare.model))
        for name in runtimes
        for method, (plan, own) in zip(listed, planned, strict=True)
        for policy in (policies if _reads_attention(plan) else ("rows",))
    ]


def _cell(
    method: Method,
    plan: Plan | InputError,
    own: Preparation | None,
    policy: Policy,
    runtime: Runtime,
) -> BenchCell:
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
    return BenchCell(copy.deepcopy(method), policy, runtime, saved, known, own)


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


def require_steady(cell: BenchCell, trace: Trace) -> None:
    """See that each request does what the first one did; raises MethodFaultError. Times of others
    are of different things."""
    first, now = cell.ledger, trace.ledger
    if first is None:
        cell.ledger = now
        return
    for what, before, after in (
        ("tokens in the vision tower", first.encoder_tokens, now.encoder_tokens),
        ("visual tokens entering the decoder layers", first.visual, now.visual),
        ("tokens in the KV caches", first.cached, now.cached),
        ("FLOPs of its decisions", first.select, now.select),
        ("what the projector is given", [first.projector], [now.projector]),
    ):
        if before != after:
            pairs = enumerate(itertools.zip_longest(before, after))
            index, (one, other) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
            raise MethodFaultError(
                f"it does not do the same in each request: {what} were {one} at first and {other} "
                f"later (number {index})"
            )


def keep_decisions(cell: BenchCell, trace: Trace) -> None:
    """Save what each decision of a verified request took beside its FLOPs."""
    cell.saved.decisions = [
        schema.Decision(site=str(one.site), operators=one.operators, scratch_bytes=one.scratch)
        for one in trace.decisions
    ]


def keep_counts(cell: BenchCell, trace: Trace, prepare: Preparation) -> None:
    """Save what a request of the cell showed, but for its times. prepare: the cell's own. Raises
    MethodFaultError for a plan or counts that are other ones than before."""
    model, request = prepare.model, prepare.request
    plan, saved = plan_for(cell.method, request), cell.saved
    if cell.plan not in (None, plan):
        raise MethodFaultError("its plan changes from call to call")
    if saved.visual_per_layer and saved.visual_per_layer != trace.visual_per_layer:
        raise MethodFaultError(
            "it keeps other numbers of visual tokens in this process than in the first"
        )
    items = cost.items(model.shape, request, plan, trace.ledger, model.dtype.itemsize)
    saved.fallback = cell.runtime.fallback
    saved.eager_prefill = cell.runtime.eager_prefill
    saved.visual_per_layer = list(trace.visual_per_layer)
    saved.tokens_per_layer = list(trace.ledger.tokens)
    saved.kv_bytes_prefill = list(trace.kv_bytes.prefill)
    saved.kv_bytes_decode = list(trace.kv_bytes.decode)
    saved.generated_tokens = trace.tokens.shape[1]
    saved.cost = cost.as_record(items)
    saved.note = "; ".join(filter(None, (prepare.note, plan.note)))
