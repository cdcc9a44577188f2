"""The base of methods that score every visual token once and keep the best."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar

from ..contract.containment import MethodFaultError, where_defined
from ..contract.method import Keep, Method, knob
from ..contract.plan import Entering, Plan, Read, Stage
from ..contract.request import Budget, Request
from .choose import top, top_of_each

if TYPE_CHECKING:
    from torch import Tensor

    from ..contract.view import View


TOP = 2  # operators that `top` calls
ORDERLESS = ("torch.bool", "torch.complex64", "torch.complex128", "torch.complex32")


@dataclass(frozen=True)
class Scorer(Method):
    """On entering one layer, keep the visual tokens with the highest scores.

    A subclass says what the score is, in `reads` which attention rows or keys it wants, and in
    `launches`, if that is known, how many operators `score` calls, views aside.
    """

    reads: ClassVar[Read | tuple[Read, ...]] = ()
    launches: ClassVar[int | None] = None

    keep: Budget = knob(Fraction(1, 9), "visual tokens that stay: a count or a share")
    layer: int | None = knob(
        None, "first decoder layer that sees fewer tokens; auto: FastV's, 2 of 32"
    )
    per_picture: bool = knob(
        False, "each of several pictures keeps a share in proportion, not the best of all"
    )

    def score(self, view: View) -> Tensor:
        """A score [B, n] for each visual token, the higher the better."""
        raise NotImplementedError

    def count(self, request: Request) -> int:
        """How many visual tokens stay."""
        return request.budget(self.keep)

    def flops(self, request: Request) -> int:
        """Matrix products of the score itself, per sample, as `Stage.flops` counts them."""
        return 0

    def plan(self, request: Request) -> Plan:
        layer = request.layer(self.layer, published=2)
        if self.per_picture:
            _ = request.grid  # refused behind another method
        known = self.launches is not None and not self.per_picture
        launches = (self.launches or 0) + TOP if known else None
        stage = Stage(
            Entering(layer),
            self.count(request),
            self.reads,
            self.flops(request),
            launches=launches,
        )
        return Plan([stage])

    def decide(self, view: View, stage: Stage) -> Keep | None:
        scores = self.score(view)
        wanted = (view.hidden.shape[0], view.count)
        if (fault := _fault(scores, wanted)) is not None:
            raise MethodFaultError(
                f"the score is {fault}; wanted is a floating or whole number for each visual "
                f"token, {list(wanted)} ({where_defined(self.score)})"
            )
        if self.per_picture:
            return top_of_each(scores, self.count(view.request), view.request)
        return top(scores, self.count(view.request))


def _fault(scores: Any, wanted: tuple[int, ...]) -> str | None:
    """What a score is that is none; asks for no value of it."""
    kind = getattr(scores, "dtype", None)
    if not hasattr(scores, "topk"):
        return type(scores).__name__ + (" (is a return forgotten?)" if scores is None else "")
    if tuple(scores.shape) != wanted or kind is None or str(kind) in ORDERLESS:
        return f"{str(kind).removeprefix('torch.')} {list(scores.shape)}"
    return None
