"""One budget for all: the same mean over layers of visual tokens entering a layer."""

from __future__ import annotations

from ...methods import InputError, Method, format_spec, has_budget, with_keep
from ...methods.contract.plan_checks import plan_for
from ..workload import Preparation


def equalize(methods: list[Method], prepare: Preparation) -> list[Method]:
    """The methods with budgets solved for one layer mean: the least that any of them has now.

    Methods without a budget, and those whose counts only the data tells, stay as they are.
    """
    means = [_mean(method, prepare) for method in methods if has_budget(method)]
    known = [mean for mean in means if mean is not None]
    if not known:
        return methods
    wanted = min(known)
    return [
        _solved(method, prepare, wanted) if has_budget(method) else method for method in methods
    ]


def unequal(methods: list[Method], prepare: Preparation) -> list[str]:
    """What stays as it is, and why, a line each."""
    lines = []
    for method in methods:
        if method.name == "vanilla" or (has_budget(method) and _mean(method, prepare) is not None):
            continue
        why = "only the data tells its counts" if has_budget(method) else "it has no budget"
        lines.append(f"--equalize: {format_spec(method)} stays as it is, for {why}")
    return lines


def _solved(method: Method, prepare: Preparation, wanted: float) -> Method:
    """`method` with the budget whose layer mean comes nearest to `wanted` tokens."""
    if not has_budget(method) or _mean(method, prepare) is None:
        return method
    low, high = 1, prepare.request.visual
    while low < high:
        middle = (low + high) // 2
        mean = _mean(with_keep(method, str(middle)), prepare)
        low, high = (middle + 1, high) if mean is None or mean < wanted else (low, middle)
    candidates = [count for count in (low - 1, low) if count >= 1]
    means = {count: _mean(with_keep(method, str(count)), prepare) for count in candidates}
    reached = {count: mean for count, mean in means.items() if mean is not None}
    if not reached:
        return method
    best = min(reached, key=lambda count: abs(reached[count] - wanted))
    return with_keep(method, str(best))


def _mean(method: Method, prepare: Preparation) -> float | None:
    try:
        request = prepare.request_for(method)
        plan = plan_for(method, request)
    except InputError:
        return None
    if not plan.planned:
        return None
    counts = plan.visual_per_layer(request)
    return sum(counts) / len(counts)
