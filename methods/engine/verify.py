"""What a method decides, held against what it promised: once, on the first request of a series.

A decision that does not fit would be measured all the same: duplicates, tokens out of order or more
of them than planned only make other tensors. Looking makes the device wait: no timed request does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..contract.containment import MethodFaultError, contained, where_defined
from ..contract.method import Keep, Method
from ..contract.plan import EncoderStage, Stage
from ..contract.plan_checks import flops_fault
from ..contract.view import EncoderView, View

RANKINGS = ("topk", "sort", "argsort", "kthvalue", "msort")


class DecisionError(MethodFaultError):
    """A decision of a method that does not fit its stage; names the method's file and line."""


class _Ranked(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees whether what a method ranks are numbers: of others, an order is what a sort makes. Reads
    nothing meanwhile: who counts the reads of the method would count it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.wrong: list[Tensor] = []

    @property
    def fault(self) -> str:
        wrong = [int(count) for count in self.wrong]
        return f"{max(wrong)} scores that it ranks are not numbers" if any(wrong) else ""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        ranked = args[0] if args and func._opname in RANKINGS else None
        if ranked is not None and ranked.is_floating_point() and not ranked.is_meta:
            self.wrong.append(ranked.isnan().sum())
        return func(*args, **(kwargs or {}))


def select(method: Method, view: View, stage: Stage, *, verify: bool) -> Keep | None:
    """What the method decides at a stage of the decoder; verify: only if it fits the plan."""
    if not verify:
        return method.select(view, stage)
    return _verified(method.select, view, stage, view.visual, stage.visual)


def encode(method: Method, view: EncoderView, stage: EncoderStage, *, verify: bool) -> Keep | None:
    """What the method decides at a stage of the vision tower; verify: only if it fits the plan."""
    if not verify:
        return method.encode(view, stage)
    return _verified(method.encode, view, stage, view.hidden, stage.tokens)


def _verified(
    decide: Callable[[Any, Any], Any],
    view: View | EncoderView,
    stage: Stage | EncoderStage,
    states: Tensor,
    planned: int | None,
) -> Keep | None:
    """What `decide` returns, if it fits.

    states: [B, n, d], the hidden states that it decides about. planned: how many tokens the plan
    says remain; None where only the data tells.
    Raises DecisionError for what does not fit, FloatingPointError for scores that are no numbers.
    """
    if view.scores is not None:
        require_finite(view.scores, f"the attention rows at layer {view.layer}")
    seen = {"hidden states": view.hidden}
    if isinstance(view, View):
        seen["origins of the tokens"] = view.original
    before = {name: tensor.clone() for name, tensor in seen.items()}
    ranked = _Ranked()
    with contained(), ranked:
        keep: Keep | None = decide(view, stage)
    fault = ranked.fault or _fault(keep, states, planned) or _notes_fault(view)
    written = [name for name in seen if _differ(before[name], seen[name])]
    if not fault and written:
        fault = f"it writes to the {written[0]} of its view, which are the model's own"
    if fault:
        raise DecisionError(f"{fault} ({where_defined(decide)})")
    return keep


def _differ(before: Tensor, now: Tensor) -> bool:
    """Whether a tensor has other values than before; what was no number may be another one."""
    return bool((before != now).logical_and(before == before).any())


def _notes_fault(view: View | EncoderView) -> str:
    """What is wrong with the flags that a stage of the tower has put on the tokens."""
    if not isinstance(view, EncoderView):
        return ""
    request, shape = view.request, view.hidden.shape[:2]
    counts = (shape.numel(), request.batch * request.visual)
    for name, flags in view.notes.marks.items():
        if (
            not isinstance(flags, Tensor)
            or flags.dtype != torch.bool
            or flags.numel() not in counts
        ):
            return f"mark {name!r} is {_kind(flags)}, not bool {list(shape)}"
        if flags.device != view.hidden.device:
            return f"mark {name!r} is on {flags.device}, and the request on {view.hidden.device}"
    return ""


def require_finite(values: Tensor, what: str) -> None:
    """Raises FloatingPointError, with the way out, where a value is infinite or no number."""
    if bool(torch.isfinite(values).all()):
        return
    dtype = str(values.dtype).removeprefix("torch.")
    raise FloatingPointError(
        f"{what} are not finite numbers in {dtype}: where they overflow, take --dtype bfloat16 or "
        "float32; what follows from them means nothing"
    )


def _fault(keep: Any, states: Tensor, planned: int | None) -> str:
    """What is wrong with a decision; "" if nothing is."""
    batch, count, width = states.shape
    if keep is None:
        if planned is None or planned == count:
            return ""
        return (
            f"it returns None, which keeps all {count} visual tokens, where {planned} are planned: "
            "is a return forgotten?"
        )
    if not isinstance(keep, Keep):
        return f"it returns a {type(keep).__name__}, not a Keep"
    index = keep.index
    if not isinstance(index, Tensor) or index.dtype != torch.int64 or index.dim() != 2:
        return f"its index is {_kind(index)}, not int64 [{batch}, n]"
    if index.device != states.device:
        return f"its index is on {index.device}, and the request on {states.device}"
    if index.shape[0] != batch:
        return f"its index has {index.shape[0]} rows for a batch of {batch}"
    kept = index.shape[1]
    if planned is not None and kept != planned:
        return f"it keeps {kept} visual tokens, where {planned} are planned"
    if not kept:
        return "its index holds no token: keep one at least"
    if int(index.min()) < 0 or int(index.max()) >= count:
        low, high = int(index.min()), int(index.max())
        return f"its index reaches from {low} to {high}, of visual tokens 0 to {count - 1}"
    if fault := _features_fault(keep, (batch, kept, width), states):
        return fault
    if keep.flops is not None and (fault := flops_fault(keep.flops)):
        return fault
    plain = index if keep.merged is None else index[:, ~keep.merged]
    if not bool((plain[:, 1:] > plain[:, :-1]).all()):
        return "its index is not in ascending order, each token once: sort it"
    return ""


def _features_fault(keep: Keep, shape: tuple[int, int, int], states: Tensor) -> str:
    features, merged = keep.features, keep.merged
    if features is not None:
        if not isinstance(features, Tensor) or (
            tuple(features.shape) != shape or features.dtype != states.dtype
        ):
            return f"its features are {_kind(features)}, not {_kind(states.new_empty(shape))}"
        if features.device != states.device:
            return f"its features are on {features.device}, and the request on {states.device}"
        if not bool(torch.isfinite(features).all()):
            return "its features are not finite numbers"
    if merged is None:
        return ""
    if not isinstance(merged, Tensor) or (
        merged.dtype != torch.bool or tuple(merged.shape) != shape[1:2]
    ):
        return f"merged is {_kind(merged)}, not bool [{shape[1]}]"
    if merged.device != states.device:
        return f"merged is on {merged.device}, and the request on {states.device}"
    return ""


def _kind(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
