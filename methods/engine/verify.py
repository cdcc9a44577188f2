"""What a method decides, held against what it promised: once, on the first request of a series.

A decision that does not fit would be measured all the same: duplicates, tokens out of order or more
of them than planned only make other tensors. Looking makes the device wait: no timed request does.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..contract.method import Keep, Method
from ..contract.plan import EncoderStage, Stage
from ..contract.view import EncoderView, View


class DecisionError(RuntimeError):
    """A decision of a method that does not fit its stage; names the method's file and line."""


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
    before = view.hidden.clone()
    keep: Keep | None = decide(view, stage)
    fault = _fault(keep, states, planned)
    if not fault and bool((before != view.hidden).logical_and(before == before).any()):
        fault = "it writes to the hidden states of its view, which are the model's own"
    if fault:
        raise DecisionError(f"{fault} ({_where(decide)})")
    return keep


def require_finite(values: Tensor, what: str) -> None:
    """Raises FloatingPointError, with the way out, where a value is infinite or no number."""
    if bool(torch.isfinite(values).all()):
        return
    dtype = str(values.dtype).removeprefix("torch.")
    raise FloatingPointError(
        f"{what} are not finite numbers in {dtype}: where they overflow, take --dtype bfloat16 or "
        "float32; what follows from them means nothing"
    )


def location(error: BaseException, method: Method) -> str:
    """The file and line of a method's own code that an error passed through; "" if it did not."""
    file = inspect.getsourcefile(type(method))
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    return f" ({Path(file).name} line {lines[-1]})" if file and lines else ""


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
    if index.shape[0] != batch:
        return f"its index has {index.shape[0]} rows for a batch of {batch}"
    kept = index.shape[1]
    if planned is not None and kept != planned:
        return f"it keeps {kept} visual tokens, where {planned} are planned"
    if kept and (int(index.min()) < 0 or int(index.max()) >= count):
        low, high = int(index.min()), int(index.max())
        return f"its index reaches from {low} to {high}, of visual tokens 0 to {count - 1}"
    if fault := _features_fault(keep, (batch, kept, width), states):
        return fault
    plain = index if keep.merged is None else index[:, ~keep.merged]
    if not bool((plain[:, 1:] > plain[:, :-1]).all()):
        return "its index is not in ascending order, each token once: sort it"
    return ""


def _features_fault(keep: Keep, shape: tuple[int, int, int], states: Tensor) -> str:
    features, merged = keep.features, keep.merged
    if features is not None:
        if tuple(features.shape) != shape or features.dtype != states.dtype:
            return f"its features are {_kind(features)}, not {_kind(states.new_empty(shape))}"
        if not bool(torch.isfinite(features).all()):
            return "its features are not finite numbers"
    if merged is not None and (merged.dtype != torch.bool or tuple(merged.shape) != shape[1:2]):
        return f"merged is {_kind(merged)}, not bool [{shape[1]}]"
    return ""


def _kind(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"


def _where(decide: Any) -> str:
    """The method's function that decides, its file and its line."""
    name = getattr(decide, "__qualname__", type(decide).__name__)
    try:
        file, line = inspect.getsourcefile(decide), inspect.getsourcelines(decide)[1]
    except (OSError, TypeError):
        return name
    return f"{name}, {Path(file or '').name} line {line}"
