"""The picture made smaller: the baseline that many methods of pruning do not beat."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction

from . import (
    Budget,
    BudgetError,
    InputError,
    Method,
    Plan,
    Request,
    Size,
    UnsupportedError,
    knob,
    register,
)


@register("downsample")
@dataclass(frozen=True)
class Downsample(Method):
    """Before the vision tower, resize the picture so that it becomes at most `keep` visual tokens.

    The largest picture of the same aspect ratio, to whole pixels, that keeps to the budget.

    Paper: https://arxiv.org/abs/2510.07143
    Code: Chenfei-Liao/VTC-Bench

    Departures:
    - The paper divides both sides by 2, 3, 4, 5 or 10, whatever tokens that leaves; here the size
      follows from the budget.
    - The released code saves the smaller picture as JPEG, which is read again; here its pixels are
      taken as they are.
    """

    keep: Budget = knob(
        Fraction(1, 9), "most visual tokens of the smaller picture: a count or a share"
    )

    def resized(self, size: Size, request_for: Callable[[Size], Request]) -> Size:
        whole = request_for(size)
        most = least = whole.visual
        budget = whole.budget(self.keep)
        if budget == most:
            return size
        for smaller, count in _smaller(size, request_for):
            if count <= budget:
                return smaller
            least = min(least, count)
        if least == most:
            raise UnsupportedError(
                f"it makes the picture smaller, and no smaller one of {size[1]}x{size[0]} becomes "
                f"fewer than {most} visual tokens on this model"
            )
        raise BudgetError(
            f"keep={self.keep} means {budget} visual tokens, but a picture of {size[1]}x{size[0]}, "
            f"made smaller, becomes {least} at least: give a count from {least} to {most}"
        )

    def plan(self, request: Request) -> Plan:
        if request.visual <= request.budget(self.keep, of=request.whole):
            return Plan()
        if request.encoder is None:
            raise UnsupportedError(
                "it makes the picture smaller, and these visual tokens are synthetic: give a "
                "picture (--image, --image-size) instead of --visual-tokens"
            )
        raise UnsupportedError(
            "it makes the picture smaller, and this request was not made for it: give it to "
            "tpprof.inputs(model, method=...) as well"
        )


def _smaller(size: Size, request_for: Callable[[Size], Request]) -> Iterator[tuple[Size, int]]:
    """Sizes of the same aspect ratio, to whole pixels, from the largest down, and the visual tokens
    of each; not those that the model takes no picture of."""
    height, width = size
    longer = max(size)
    for side in range(longer - 1, 0, -1):
        smaller = max(1, round(height * side / longer)), max(1, round(width * side / longer))
        with suppress(InputError):  # too long and narrow, once it is rounded
            yield smaller, request_for(smaller).visual
