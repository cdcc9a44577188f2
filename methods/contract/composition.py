"""Methods one behind another: `visionzip:keep=640+fastv:keep=320`."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from .method import Keep, Method
from .plan import Plan, Positions, Published, Stage, Tower
from .request import BudgetError, Request, Size, UnsupportedError

if TYPE_CHECKING:
    from .view import View


@dataclass(frozen=True)
class Composition(Method):
    """Methods that act one behind another: each prunes what the ones before it have left.

    A part counts its budget of the tokens that are left to it. Parts must act one behind another
    along the forward pass, and all but the last know their counts beforehand.
    """

    parts: tuple[Method, ...] = field(default=(), metadata={"about": "the methods, in order"})

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", "+".join(part.name for part in self.parts))

    def resized(self, size: Size, request_for: Callable[[Size], Request]) -> Size:
        self._require_picture_first()
        return self.parts[0].resized(size, request_for)

    def plan(self, request: Request) -> Plan:
        plans = self._planned(request)[0]
        stages = [
            replace(stage, part=number)
            for number, plan in enumerate(plans)
            for stage in plan.stages
        ]
        return Plan(
            stages,
            positions=self._positions(plans, request),
            compressed=next((plan.compressed for plan in plans if plan.compressed), range(0)),
            published=_published([plan.published for plan in plans if plan.published]),
            proportional=any(plan.proportional for plan in plans),
            note="; ".join(plan.note for plan in plans if plan.note),
        )

    def decide(self, view: View, stage: Stage) -> Keep | None:
        request = self._planned(view.request)[1][stage.part]
        own = replace(stage, part=0)
        return self.parts[stage.part].decide(replace(view, request=request), own)

    @functools.lru_cache(maxsize=64)  # noqa: B019 - methods are few, small and frozen
    def _planned(self, request: Request) -> tuple[tuple[Plan, ...], tuple[Request, ...]]:
        """The plan of each part, and the request as it sees it."""
        self._require_picture_first()
        plans: list[Plan] = []
        requests: list[Request] = []
        for part in self.parts:
            plans.append(self._plan_of(part, request, plans))
            requests.append(request)
            self._require_order(plans)
            if plans[-1].stages and part is not self.parts[-1]:
                request = replace(request, left=self._left(part, plans[-1], request))
        return tuple(plans), tuple(requests)

    def _require_picture_first(self) -> None:
        """Raises UnsupportedError where a part behind the first would resize the picture."""
        for part in self.parts[1:]:
            if type(part).resized is not Method.resized:
                raise UnsupportedError(
                    f"{part.name} resizes the picture, before all that others do: it can only "
                    "stand first"
                )

    def _plan_of(self, part: Method, request: Request, before: list[Plan]) -> Plan:
        """The plan of a part; what acts in the wrong order is told before what it cannot afford."""
        try:
            return part.plan(request)
        except BudgetError:
            with contextlib.suppress(BudgetError):
                self._require_order([*before, part.plan(replace(request, left=None))])
            raise

    def _left(self, part: Method, plan: Plan, request: Request) -> int:
        if not plan.planned:
            raise UnsupportedError(
                f"only the data tells how many tokens {part.name} leaves: it can only stand last"
            )
        return plan.visual_leaving(request)[-1]

    def _require_order(self, plans: Sequence[Plan]) -> None:
        """Raises UnsupportedError where the last plan acts before the ones ahead of it are done."""
        done = [
            (part, plan.stages[-1])
            for part, plan in zip(self.parts, plans, strict=False)
            if plan.stages and plan is not plans[-1]
        ]
        if not done or not plans[-1].stages:
            return
        (earlier, last), first = done[-1], plans[-1].stages[0]
        if plans[-1].tower and isinstance(last.site, Tower):
            raise UnsupportedError(
                f"{self.parts[len(plans) - 1].name} acts in the vision tower, behind which "
                f"{earlier.name} leaves no whole tile: they clash; one method acts there"
            )
        if first.order <= last.order:
            raise UnsupportedError(
                f"{self.parts[len(plans) - 1].name} acts {_at(first)}, and {earlier.name} is "
                f"done {_at(last)}: they clash; compose methods that act one behind another"
            )

    def _positions(self, plans: Sequence[Plan], request: Request) -> Positions:
        """That of the parts that act in the decoder; what is pruned before it leaves no gaps."""
        said = {plan.positions for plan in plans if plan.decoder}
        if len(said) > 1 and request.compactable:
            names = " and ".join(part.name for part in self.parts)
            raise UnsupportedError(f"{names} clash: one keeps positions, the other counts anew")
        return said.pop() if said else "keep"


def _at(stage: Stage) -> str:
    """Where a stage acts, as a part of a sentence."""
    site = str(stage.site)
    return f"at {site}" if isinstance(stage.site, Tower) else f"{'on ' * stage.in_decoder}{site}"


def _published(released: Sequence[Published]) -> Published | None:
    """What released code runs, of all parts together."""
    if not released:
        return None
    decoder = next((one for one in released if one.maps), released[0])
    tower = next((one.tower_maps for one in released if one.tower_maps), range(0))
    return replace(decoder, tower_maps=tower)
