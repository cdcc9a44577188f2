"""The cells of a comparison: one method under one attention policy, and what is saved of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..methods import Method, format_spec, parse
from ..methods.core.engine import Trace
from ..methods.core.ledger import Policy
from ..methods.core.request import BudgetError, Request
from ..reports import record as schema
from . import cost, memory
from .clock import Part, Timing
from .models.model import Model


@dataclass
class Cell:
    """One row in the making."""

    method: Method
    policy: Policy
    reads_attention: bool
    solved: dict[str, float] = field(default_factory=dict)
    trace: Trace | None = None
    timings: list[tuple[int, int, Timing]] = field(default_factory=list)
    peak: memory.Peak | None = None
    error: str = ""


def make_cells(methods: list[Method], policies: tuple[Policy, ...], request: Request) -> list[Cell]:
    """Vanilla first; a method that reads attention once under each policy."""
    cells = [Cell(parse("vanilla"), "rows", reads_attention=False)]
    for method in methods:
        reads = reads_attention(method, request)
        for policy in policies if reads else ("rows",):
            if not any(cell.method == method and cell.policy == policy for cell in cells):
                cells.append(Cell(method, policy, reads))
    return cells


def reads_attention(method: Method, request: Request) -> bool:
    """Whether the method's plan reads attention rows anywhere; checks that it can be planned."""
    try:
        plan = method.plan(request)
    except BudgetError as error:
        raise BudgetError(f"{format_spec(method)}: {error}") from error
    decoder = any(stage.rows for stage in plan.stages)
    return decoder or any(stage.rows for stage in plan.encoder_stages)


def saved_cell(cell: Cell, model: Model, request: Request) -> schema.Cell:
    """What the record holds of `cell` so far."""
    saved = schema.Cell(
        method=format_spec(cell.method),
        name=cell.method.name,
        attention=cell.policy,
        reads_attention=cell.reads_attention,
        solved=dict(cell.solved),
        error=cell.error,
    )
    trace = cell.trace
    if trace is None:
        return saved
    plan = cell.method.plan(request)
    names: list[Part] = list(cell.timings[0][2].parts) if cell.timings else []
    items = cost.flops(model.shape, request, plan, trace.ledger)
    peak = cell.peak
    saved.visual_per_layer = list(trace.visual_per_layer)
    saved.tokens_per_layer = list(trace.ledger.tokens)
    saved.kv_bytes_prefill = list(trace.kv_bytes.prefill)
    saved.kv_bytes_decode = list(trace.kv_bytes.decode)
    saved.generated_tokens = trace.tokens.shape[1]
    saved.flops = [schema.Flops(**vars(item)) for item in items]
    saved.memory = schema.Memory(**vars(peak)) if peak else schema.Memory()
    saved.parts = [schema.Part(phase=p, part=q, index=i) for p, q, i in names]
    saved.samples = [
        schema.Sample(
            round=done, place=place, latency=timing.latency,
            parts=[timing.parts[name] for name in names],
        )
        for done, place, timing in cell.timings
    ]  # fmt: skip
    saved.note = plan.note
    return saved


def label(cell: Cell) -> str:
    """The cell as progress names it."""
    policy = f" ({cell.policy})" if cell.reads_attention else ""
    return format_spec(cell.method) + policy
