"""What a method decides, held against what it promised: once, on the first request of a series.

A decision that does not fit would be measured all the same: duplicates, tokens out of order or more
of them than planned only make other tensors. Looking makes the device wait: no timed request does.
"""

from __future__ import annotations

import math
import weakref
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..contract.containment import MethodFaultError, contained, where_defined
from ..contract.method import Keep, Method
from ..contract.plan import Site, Stage
from ..contract.plan_checks import flops_fault
from ..contract.view import View
from .ledger import decision_flops

if TYPE_CHECKING:
    from .context import Context

PARAMETERS = ("k", "dim", "largest")  # of topk, behind what it ranks
RANKINGS = ("topk", "sort", "argsort", "kthvalue", "msort")


class DecisionError(MethodFaultError):
    """A decision of a method that does not fit its stage; names the method's file and line."""


@dataclass(frozen=True)
class DecisionCost:
    """What one decision took beside its FLOPs, as the first request of a series showed it.

    site: of its stage. operators: that it called. scratch: the most bytes that tensors of its own
    held at once.
    """

    site: Site
    operators: int
    scratch: int


class _Watched(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees whether what a method ranks has an order: of NaN, and among infinite values, it is what
    a sort makes; and counts the operators that it calls, and the bytes that it holds. Reads nothing
    meanwhile: who counts the reads of the method would count it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.wrong: list[Tensor] = []
        self.tied: list[Tensor] = []
        self.operators = self.scratch = self._held = 0
        self._users: Counter[int] = Counter()  # tensors on each storage of its own, by address

    @property
    def fault(self) -> str:
        wrong = [int(count) for count in self.wrong]
        if any(wrong):
            return f"{max(wrong)} scores that it ranks are not numbers"
        tied = [int(count) for count in self.tied]
        if any(tied):
            return f"{max(tied)} scores that it ranks are infinite: which of them stay says nothing"
        return ""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        ranked = args[0] if args and func._opname in RANKINGS else None
        if (
            ranked is not None
            and ranked.is_floating_point()
            and ranked.dim()
            and not ranked.is_meta
        ):
            self.wrong.append(ranked.isnan().sum())
            listed = args[1:] if func._opname == "topk" else ()
            self.tied.append(_tied(ranked, **dict(zip(PARAMETERS, listed, strict=False)), **named))
        given = {_address(tensor) for tensor in _tensors(args)}
        result = func(*args, **named)
        self.operators += 1
        for tensor in _tensors(result if isinstance(result, (tuple, list)) else (result,)):
            address = _address(tensor)
            if address and (address in self._users or address not in given):
                self._hold(tensor, address)
        return result

    def _hold(self, tensor: Tensor, address: int) -> None:
        """Count a tensor of the decision's own, for as long as it lives."""
        size = tensor.untyped_storage().nbytes()
        if not self._users[address]:
            self._held += size
            self.scratch = max(self.scratch, self._held)
        self._users[address] += 1

        def freed() -> None:
            self._users[address] -= 1
            if not self._users[address]:
                del self._users[address]
                self._held -= size

        weakref.finalize(tensor, freed).atexit = False


def _tied(
    scores: Tensor, k: int | None = None, dim: int = -1, largest: bool = True, **_: Any
) -> Tensor:
    """How many scores are infinite in rows where the best `k` are chosen among infinite ones; in a
    ranking of all, where all are infinite."""
    infinite = scores.isinf()
    if k is None:
        return (infinite & infinite.all(dim, keepdim=True)).sum()
    high, low = infinite & (scores > 0), infinite & (scores < 0)
    best, worst = (high, low) if largest else (low, high)
    among = (best.sum(dim, keepdim=True) > k) | (
        worst.sum(dim, keepdim=True) > scores.shape[dim] - k
    )
    return (infinite & among).sum()


def _address(tensor: Tensor) -> int:
    """Where a tensor's storage lies; 0 where it lies nowhere."""
    return 0 if tensor.is_meta else tensor.untyped_storage().data_ptr()


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in values if isinstance(value, Tensor)]


def deciding(method: Method, stage: Stage) -> Any:
    """The function that decides at a stage: of a composition, that of the part that acts."""
    parts = getattr(method, "parts", (method,))
    return parts[stage.part].decide if stage.part < len(parts) else method.decide


def decide(context: Context, view: View, stage: Stage) -> Keep | None:
    """What the method decides at a stage, and its FLOPs in the ledger. The first request of a
    series is verified: a decision counts only if it fits the plan."""
    keep = (_verified if context.verify else _plain)(context, view, stage)
    known = keep.flops if keep else None
    context.ledger.select.append(decision_flops(stage, context.policy) if known is None else known)
    return keep


def _plain(context: Context, view: View, stage: Stage) -> Keep | None:
    return context.method.decide(view, stage)


def _verified(context: Context, view: View, stage: Stage) -> Keep | None:
    """What `decide` returns, if it fits.

    Raises DecisionError for what does not fit, FloatingPointError for scores that are no numbers.
    """
    method = context.method
    if view.rows_read is not None:
        require_finite(view.rows_read, f"the attention rows at layer {stage.read_layer}")
    seen = {
        "hidden states": view.hidden,
        "origins of the tokens": view.original,
        "attention rows": view.rows_read,
        "keys": view.keys_read,
        "sizes": view.sizes,
        "cosines": view.rotary[0] if view.rotary else None,
        "sines": view.rotary[1] if view.rotary else None,
        **{f"tag {name!r}": tag.values for name, tag in view.notes.tags.items()},
        **{f"remembered {name!r}": tensor for name, tensor in view.notes.remembered.items()},
    }
    shown = {name: tensor for name, tensor in seen.items() if tensor is not None}
    before = {name: tensor.clone() for name, tensor in shown.items()}
    watched = _Watched()
    ranks, device = context.decoder.ranks, view.hidden.device
    try:
        with contained(), watched:
            keep: Keep | None = method.decide(view, stage)
    except Exception:
        if ranks is not None:
            ranks.require_same(None, device, failed=True)
        raise
    context.decisions.append(DecisionCost(stage.site, watched.operators, watched.scratch))
    fault = watched.fault or _fault(keep, view, stage.tokens) or _tags_fault(view)
    written = [name for name, tensor in shown.items() if _differ(before[name], tensor)]
    if not fault and written:
        fault = f"it writes to the {written[0]} of its view, which are the model's own"
    if not fault and torch.is_grad_enabled():
        fault = "it turns gradients on, which what comes after it would keep tensors for"
    if ranks is not None:
        index = None if keep is None or fault else keep.index
        ranks.require_same(index, device, failed=bool(fault))
    if fault:
        raise DecisionError(f"{fault} ({where_defined(deciding(method, stage))})")
    return keep


def _differ(before: Tensor, now: Tensor) -> bool:
    """Whether a tensor has other values than before; what was no number may be another one."""
    return before.shape != now.shape or bool((before != now).logical_and(before == before).any())


def _tags_fault(view: View) -> str:
    """What is wrong with the values that a stage has put on the tokens."""
    rows, count = view.hidden.shape[0], view.count
    units = count // view.request.merger
    for name, tag in view.notes.tags.items():
        values = tag.values
        if not isinstance(values, Tensor) or values.dim() not in (2, 3):
            return f"tag {name!r} is {_kind(values)}, not [{rows}, {count}]"
        if values.shape[0] != rows or values.shape[1] not in (count, units):
            return f"tag {name!r} is {_kind(values)}, not [{rows}, {count}]"
        if not values.is_floating_point() and not math.isfinite(tag.newline):
            return f"tag {name!r} is {_kind(values)}, and a newline cannot be {tag.newline} there"
        if values.device != view.hidden.device:
            return f"tag {name!r} is on {values.device}, and the request on {view.hidden.device}"
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


def _fault(keep: Any, view: View, planned: int | None) -> str:
    """What is wrong with a decision; "" if nothing is."""
    states = view.states
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
    if not kept and planned is None:
        return "its index holds no token: a stage of the decoder that drops all plans 0 tokens"
    if kept and (int(index.min()) < 0 or int(index.max()) >= count):
        low, high = int(index.min()), int(index.max())
        return f"its index reaches from {low} to {high}, of visual tokens 0 to {count - 1}"
    if fault := _features_fault(keep, (batch, kept, width), states):
        return fault
    if keep.flops is not None and (fault := flops_fault(keep.flops)):
        return fault
    if not _ascending(index, keep.merges):
        return "its index is not in ascending order, each token once: sort it"
    return ""


def _ascending(index: Tensor, merged: Tensor | None) -> bool:
    """Whether the entries that are not merged stand in their order, each once."""
    if merged is None:
        merged = torch.zeros_like(index, dtype=torch.bool)
    for row, joined in zip(index, merged.expand(index.shape), strict=True):
        plain = row[~joined]
        if not bool((plain[1:] > plain[:-1]).all()):
            return False
    return True


def _features_fault(keep: Keep, shape: tuple[int, int, int], states: Tensor) -> str:
    features, merged, sizes = keep.features, keep.merged, keep.sizes
    if features is not None:
        if not isinstance(features, Tensor) or (
            tuple(features.shape) != shape or features.dtype != states.dtype
        ):
            return f"its features are {_kind(features)}, not {_kind(states.new_empty(shape))}"
        if features.device != states.device:
            return f"its features are on {features.device}, and the request on {states.device}"
        if not bool(torch.isfinite(features).all()):
            return "its features are not finite numbers"
    batch, count, _ = shape
    if merged is not None:
        fits = isinstance(merged, Tensor) and merged.dtype == torch.bool
        if not fits or tuple(merged.shape) not in ((count,), (batch, count)):
            return f"merged is {_kind(merged)}, not bool [{count}] or [{batch}, {count}]"
    if sizes is not None and (
        not isinstance(sizes, Tensor)
        or not sizes.is_floating_point()
        or tuple(sizes.shape) != (batch, count)
    ):
        return f"sizes are {_kind(sizes)}, not float32 [{batch}, {count}]"
    for name, given in (("merged is", merged), ("sizes are", sizes)):
        if given is not None and given.device != states.device:
            return f"{name} on {given.device}, and the request on {states.device}"
    return ""


def _kind(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
