"""Planning without running: tokens, FLOPs and KV bytes of methods on any shape. No torch here."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ..methods import Method, format_spec, parse, with_keep
from ..methods.core.ledger import Policy, check_policy, planned
from ..methods.core.request import BudgetError, Request
from ..reports import formats, units
from . import cost
from .models.shapes import SHAPES, Shape
from .workload import SYNTHETIC_TEXT, Workload, plan_request

HEADINGS = (
    "method",
    "visual tokens\nlast / mean",
    "FLOPs",
    "of vanilla",
    "prefill\nof vanilla",
    "KV MB\n(16 bit)",
)


@dataclass(frozen=True)
class Planned:
    """What a method will cost: FLOPs of the whole request, and of its decoder's prefill alone;
    KV bytes after prefill in 16 bits, batch included. None where only the data tells."""

    method: str
    visual_last: int | None
    visual_mean: float | None
    flops: int | None
    flops_share: float | None
    prefill_flops: int | None
    prefill_flops_share: float | None
    kv_bytes: int | None
    note: str


def plan(
    methods: list[str],
    model: str,
    workload: Workload,
    *,
    keep: str | None = None,
    attention: str = "rows",
) -> list[Planned]:
    """Plan vanilla and `methods` on a shape, a checkpoint folder or a hub id."""
    policy = check_policy(attention)
    shape = _shape(model)
    before, after = workload.text_tokens or SYNTHETIC_TEXT
    request = plan_request(shape, workload, before=before, after=after)
    vanilla = parse("vanilla")
    schedule = vanilla.plan(request)
    full = cost.flops(shape, request, schedule, planned(schedule, request, policy))
    chosen = [vanilla, *(parse(spec) for spec in methods if spec != "vanilla")]
    budgeted = [with_keep(method, keep) if keep else method for method in chosen]
    return [_planned(shape, request, method, policy, full) for method in budgeted]


def show(table: list[Planned], format_: str) -> None:
    """Print the plan as a table, JSON, CSV or Markdown."""
    rows = [asdict(row) for row in table]
    texts = [_texts(row) for row in table]
    if format_ == "json":
        print(formats.as_json(rows), end="")
    elif format_ == "csv":
        print(formats.as_csv(rows), end="")
    elif format_ == "markdown":
        print(formats.as_markdown(HEADINGS, texts), end="")
    else:
        console = formats.console()
        console.print(formats.as_table(HEADINGS, texts))
        for row in table:
            if row.note:
                console.print(f"{row.method}: {row.note}", markup=False)


def _texts(row: Planned) -> list[str]:
    return [
        row.method,
        _tokens(row),
        units.teraflops(row.flops),
        units.percent(row.flops_share),
        units.percent(row.prefill_flops_share),
        units.megabytes(row.kv_bytes),
    ]


def _tokens(row: Planned) -> str:
    if row.visual_last is None or row.visual_mean is None:
        return units.NA
    return f"{row.visual_last} / {row.visual_mean:.0f}"


def _planned(
    shape: Shape, request: Request, method: Method, policy: Policy, full: list[cost.Item]
) -> Planned:
    name = format_spec(method)
    try:
        schedule = method.plan(request)
        ledger = planned(schedule, request, policy)
    except BudgetError as error:
        raise BudgetError(f"{name}: {error}") from error
    except ValueError as error:
        return Planned(name, None, None, None, None, None, None, None, str(error))
    items = cost.flops(shape, request, schedule, ledger)
    flops, prefill = cost.total(items), cost.total(items, "prefill")
    return Planned(
        method=name,
        visual_last=ledger.visual[-1],
        visual_mean=sum(ledger.visual) / len(ledger.visual),
        flops=flops,
        flops_share=flops / cost.total(full),
        prefill_flops=prefill,
        prefill_flops_share=prefill / cost.total(full, "prefill"),
        kv_bytes=sum(cost.kv_bytes(shape, request, ledger.cached, itemsize=2)),
        note=schedule.note,
    )


def _shape(model: str) -> Shape:
    if model in SHAPES:
        return SHAPES[model]
    from .models.load import shape_of

    return shape_of(model)
