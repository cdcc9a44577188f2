"""What a method is: a frozen set of knobs, a plan, and a decision at each of its stages."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .plan import Plan, Stage
from .request import Request, Size

if TYPE_CHECKING:
    from torch import Tensor

    from .view import View


BOUNDS = ("least", "most")  # of what a knob may be


def knob(default: Any, about: str, *, least: float | None = None, most: float | None = None) -> Any:
    """A knob of a method: its default, its meaning with its unit, and the least and the most that
    it may be."""
    metadata = {"about": about, "least": least, "most": most}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Keep:
    """A decision: which visual tokens go on, in which order.

    index: int64 [N, n], places among the current visual tokens; positions follow it.
    features: [N, n, d], hidden states that replace those of `index`; None keeps them.
    merged: bool [n] or [N, n], entries that stand for several tokens; None where none does, or
        where `sizes` says it.
    sizes: float32 [N, n], how many of the first tokens each entry stands for: those above one are
        merged. The engine moves them on.
    flops: matrix products of the decision per sample (in the tower, per tile),
        where the plan could not know them.
    """

    index: Tensor
    features: Tensor | None = None
    merged: Tensor | None = None
    sizes: Tensor | None = None
    flops: int | None = None

    @property
    def merges(self) -> Tensor | None:
        """Which entries stand for several tokens, bool [n] or [N, n]; None for none."""
        if self.merged is not None or self.sizes is None:
            return self.merged
        return self.sizes > 1


@dataclass(frozen=True)
class Method:
    """Base of all methods. Subclasses are frozen dataclasses whose fields are knobs.

    The engine asks for a `plan` once per request, and for a decision at each stage of it. It
    moves the tokens, positions and caches itself.
    """

    name: ClassVar[str] = ""
    video: ClassVar[bool] = False
    """Whether it works on the frames of a video, and on nothing else."""

    tag: str = dataclasses.field(
        default="", kw_only=True, metadata={"about": "a name of its own, to measure it twice"}
    )

    def __post_init__(self) -> None:
        """Raises ValueError for a knob out of bounds, or one that is no finite number. A method
        that adds checks calls this too."""
        for knob in self.knobs():
            value, least, most = getattr(self, knob.name), *map(knob.metadata.get, BOUNDS)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{knob.name}={value} is no finite number")
            if value is not None and least is not None and value < least:
                raise ValueError(f"{knob.name}={value} is below {least}")
            if value is not None and most is not None and value > most:
                raise ValueError(f"{knob.name}={value} is above {most}")

    def resized(self, size: Size, request_for: Callable[[Size], Request]) -> Size:
        """The size that the picture is resized to, for this method, before the model's image
        processor sees it; its own size where it stays as it is.

        request_for: the request of a picture of some size. The request that `plan` is then given
        says in `whole` how many visual tokens the picture had. Raises as `plan` does.
        """
        return size

    def plan(self, request: Request) -> Plan:
        """The schedule for `request`; raises BudgetError where the knobs cannot be met."""
        raise NotImplementedError

    def decide(self, view: View, stage: Stage) -> Keep | None:
        """Decide at a stage of the plan; None keeps every token."""
        raise NotImplementedError

    @classmethod
    def summary(cls) -> str:
        """The idea in one sentence: the first line of the docstring."""
        return (cls.__doc__ or "").strip().splitlines()[0]

    @classmethod
    def reference(cls, label: str) -> str:
        """What the docstring names as `Paper:` or `Code:`."""
        found = re.search(rf"^\s*{label}:\s*(.+)$", cls.__doc__ or "", re.MULTILINE)
        return found.group(1).strip() if found else ""

    @classmethod
    def departures(cls) -> tuple[str, ...]:
        """Where it does something else than its paper or its released code, a sentence each: what
        the docstring lists under `Departures:`."""
        _, _, listed = inspect.cleandoc(cls.__doc__ or "").partition("\nDepartures:\n- ")
        return tuple(" ".join(item.split()) for item in re.split(r"\n- ", listed) if item)

    @classmethod
    def knobs(cls) -> tuple[dataclasses.Field[Any], ...]:
        """Its fields; one that is given another default alone is described as it was inherited."""
        for field in (fields := dataclasses.fields(cls)):
            if not field.metadata:
                inherited = (getattr(base, "__dataclass_fields__", {}) for base in cls.__mro__[1:])
                known = (base[field.name].metadata for base in inherited if field.name in base)
                field.metadata = next(filter(None, known), field.metadata)
        return fields
