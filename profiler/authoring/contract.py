"""What every method promises, held on a small model of each architecture, in seconds.

Nothing is timed. Each check says in plain words what is broken, and where.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from ...methods import (
    BudgetError,
    Method,
    Request,
    Scorer,
    UnsupportedError,
    format_spec,
    has_budget,
    with_keep,
)
from ...methods.contract.composition import Composition
from ...methods.contract.containment import contained, location, own_files, where_defined
from ...methods.contract.errors import first_line
from ...methods.contract.policies import POLICIES, Policy
from ...methods.engine.context import Lap
from ...methods.engine.ledger import planned
from ...methods.engine.run import Trace, run
from ...reports.record.spec import Layout, Workload
from .. import cost
from ..api import forward
from ..meters import flop_counter
from ..meters.host_waits import HostWaits
from ..models.model import Model
from .case import NEW_TOKENS, BrokenError, Case
from .micro import SIZE, affordable, case_name, every_case, micro_model, shown_to


@dataclass(frozen=True)
class Finding:
    """One check of a method on one architecture. fault: what is broken; "" where it holds.
    unsupported: why the method cannot run there at all; "" where it can. unmet: why the knobs that
    were typed cannot be met there, which is no fault of the method."""

    model: str
    check: str
    fault: str = ""
    unsupported: str = ""
    unmet: str = ""


def findings(
    method: Method, cases: Sequence[tuple[str, Layout]] | None = None
) -> Iterator[Finding]:
    """What `method` keeps of the contract, architecture by architecture, as it is found out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # models this small lose time to a second one
    try:
        yield from _findings(method, every_case() if cases is None else cases)
    finally:
        torch.set_num_threads(threads)


def _findings(method: Method, cases: Sequence[tuple[str, Layout]]) -> Iterator[Finding]:
    loaded: dict[str, Model] = {}
    for architecture, layout in cases:
        name = case_name(architecture, layout)
        if architecture not in loaded:
            loaded[architecture] = micro_model(architecture)
        workload = Workload(image_size=(SIZE,), new_tokens=NEW_TOKENS, layout=layout)
        case = Case(_affordable(method), loaded[architecture], workload)
        try:
            case = case.shown(shown_to(method, architecture))
            case.plan(case.inputs())
        except UnsupportedError as error:
            yield Finding(name, "plan", unsupported=str(error))
            continue
        except Exception as error:
            if isinstance(error, BudgetError) and format_spec(method) != method.name:
                yield Finding(name, "plan", unmet=str(error))
            else:
                yield Finding(name, "plan", first_line(error))
            continue
        yield Finding(name, "plan")
        for title, holds in CHECKS.items():
            if title != "keep=100%" or has_budget(case.method):
                finding = Finding(name, title, _fault(case, holds))
                yield finding
                if finding.fault and title == "decisions":  # all else would say the same
                    break


def _affordable(method: Method) -> Method:
    """The method with the budget that was given, or one that small models can meet; so with each
    part of a composition."""
    if isinstance(method, Composition):
        return replace(method, parts=tuple(map(_affordable, method.parts)))
    same = has_budget(method) and getattr(method, "keep", 0) == getattr(type(method)(), "keep", 1)
    return affordable(method) if same else method


def _fault(case: Case, holds: Callable[[Case], None]) -> str:
    """What a check finds broken; "" if it holds."""
    try:
        with contained():
            holds(case)
    except BrokenError as error:
        return str(error)
    except Exception as error:
        return first_line(error) + location(error, case.method)
    return ""


def _decides(case: Case) -> None:
    """Each decision fits the plan (counts, order, duplicates, finite numbers, nothing written), and
    the request does what was planned."""
    inputs = case.inputs()
    plan = case.plan(inputs)
    for policy in POLICIES:
        seen = case.run(inputs, policy=policy).ledger
        expected = vars(planned(plan, inputs.request, policy)) if plan.planned else {}
        for name, wanted in expected.items():
            found = getattr(seen, name)
            if wanted != found:
                what = name.replace("_", " ")
                raise BrokenError(f"{what}: planned {wanted}, and it was {found} under {policy}")


def _counts_flops(case: Case) -> None:
    """FLOPs by formula are those that torch counts, to the unit."""
    for policy in POLICIES:
        _require_flops(case, policy)


def _require_flops(case: Case, policy: Policy) -> None:
    inputs = case.inputs()
    traces: list[Trace] = []

    def request(lap: Lap) -> None:
        traces.append(
            run(
                case.model,
                inputs,
                case.method,
                attention=policy,
                new_tokens=NEW_TOKENS,
                lap=lap,
            )
        )

    counted = flop_counter.flops(request)
    if counted.uncounted:
        raise BrokenError(
            f"torch counts no FLOPs of {', '.join(counted.uncounted)}: no check holds its figures"
        )
    plan = case.plan(inputs)
    items = cost.items(case.model.shape, inputs.request, plan, traces[0].ledger, 4)
    decided = sum(item.work.flops for item in items if item.part == "select")
    if decided != counted.decisions:
        raise BrokenError(
            f"its decisions declare {decided:,} FLOPs, and torch counts {counted.decisions:,} "
            f"under --attention {policy}, of {_sizes(inputs.request)}: {_declared_by(case.method)}"
        )
    whole = cost.total(items).flops
    seen = sum(counted.by_phase.values()) - sum(counted.tables.values())
    if whole != seen:
        raise BrokenError(
            f"the request has {whole:,} FLOPs by formula, and torch counts {seen:,} under "
            f"--attention {policy}"
        )


def _declared_by(method: Method) -> str:
    """Where the author says what a decision costs."""
    if isinstance(method, Scorer):
        return f"its flops(self, request) counts a sample ({where_defined(method.score)})"
    return f"Stage(flops=...) counts a sample, a tile in the tower ({where_defined(method.decide)})"


def _sizes(request: Request) -> str:
    """What FLOPs of a decision are made of."""
    tower = f", {request.encoder.patches} patches a tile" if request.encoder else ""
    return f"{request.visual} visual tokens of width {request.hidden}{tower}"


def _repeats(case: Case) -> None:
    """The same request gives the same tokens."""
    inputs = case.inputs()
    once, again = case.run(inputs), case.run(inputs)
    for layer, (one, other) in enumerate(zip(once.kept, again.kept, strict=True)):
        if one.shape != other.shape or not torch.equal(one, other):
            raise BrokenError(f"another selection at layer {layer} when the request is repeated")
    if not torch.equal(once.logits, again.logits):
        raise BrokenError("other logits when the request is repeated")


def _keeps_all(case: Case) -> None:
    """With the whole budget it is vanilla."""
    unpruned = replace(case, method=with_keep(case.method, "100%"))
    inputs = unpruned.inputs()
    whole, kept = case.run(inputs, "vanilla"), unpruned.run(inputs)
    if kept.visual_per_layer != whole.visual_per_layer:
        raise BrokenError(f"keep=100% leaves {kept.visual_per_layer} visual tokens in its layers")
    if not torch.allclose(kept.logits, whole.logits, atol=1e-5, rtol=1e-4):
        raise BrokenError("keep=100% gives other logits than vanilla")


def _batches(case: Case) -> None:
    """A batch of equal prompts is one prompt several times, and no row bears on another."""
    one, two = case.run(case.inputs()), case.run(case.inputs(batch=2))
    if two.visual_per_layer != one.visual_per_layer:
        raise BrokenError(
            f"{two.visual_per_layer} visual tokens in a batch of 2, {one.visual_per_layer} alone"
        )
    for row in two.logits:
        if not torch.allclose(row[None], one.logits, atol=1e-4, rtol=1e-3):
            raise BrokenError("a row of a batch of 2 has other logits than it has alone")
    if case.plan(case.inputs()).planned:  # else rows share what the data says
        for row in (0, 1):
            _require_own(case, two, row)


def _require_own(case: Case, equal: Trace, row: int) -> None:
    """A row of a batch of 2 keeps what it keeps, bit for bit, beside another picture. equal: of
    equal prompts."""
    inputs = case.inputs(batch=2)
    for name in [name for name in inputs if name.startswith("pixel_values")]:
        pictures = list(inputs[name].chunk(2))
        pictures[1 - row] = -pictures[1 - row].flip(-1)
        inputs[name] = torch.cat(pictures)
    beside = case.run(inputs)
    for layer, (one, other) in enumerate(zip(equal.kept, beside.kept, strict=True)):
        if not torch.equal(one[row], other[row]):
            raise BrokenError(
                f"a row of a batch of 2 keeps other tokens at layer {layer} when the picture of "
                "the other row changes"
            )
    if not torch.allclose(beside.logits[row], equal.logits[row], atol=1e-4, rtol=1e-3):
        raise BrokenError("a row of a batch of 2 has other logits when the other's picture changes")


def _never_waits(case: Case) -> None:
    """Where all counts are planned, the host reads no value of a tensor; seen on a CPU too."""
    inputs = case.inputs()
    if not case.plan(inputs).planned:
        return
    solved: dict[str, float] = {}
    forward(case.model, inputs, case.method, solved=solved)
    with HostWaits(own_files(case.method)) as waits:
        forward(case.model, inputs, case.method, solved=solved, verify=False)
    if waits.seen:
        places = ", ".join(f"{place} ({count}x)" for place, count in waits.seen.items())
        raise BrokenError(
            f"the host waits for a value of a tensor: {places}; no graph can hold that. Counts "
            "that only the data tells are planned as Stage(tokens=None)"
        )


CHECKS: dict[str, Callable[[Case], None]] = {
    "decisions": _decides,
    "FLOPs": _counts_flops,
    "repeatable": _repeats,
    "keep=100%": _keeps_all,
    "batch": _batches,
    "no waiting": _never_waits,
}
"""The contract, by the name under which it is told; the first two under every attention policy."""
LAST = list(CHECKS)[-1]


def title(method: Method) -> str:
    """The method as it was checked."""
    return format_spec(_affordable(method))
