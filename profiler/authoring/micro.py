"""Models small enough to run hundreds of requests in seconds, one of each architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...methods import (
    BudgetError,
    InputError,
    Method,
    Plan,
    Request,
    UnsupportedError,
    with_keep,
)
from ...methods.contract.plan_checks import plan_for, resized_for
from ...reports.record.spec import Layout, Workload
from ..models.registry import known_architectures
from ..workload import by_size

if TYPE_CHECKING:
    from ..models.model import Model

SIZE = (168, 168)
"""Height and width in pixels of a picture of 2 x 2 tiles, or of 6 x 6 merged tokens."""
FRAMES = 8
"""Of such pictures, in the video that a method for videos is given."""
SHARES = ("1/2", "2/3")
"""Budgets, of which a method is given the first that it can meet on all models here."""


def every_case() -> tuple[tuple[str, Layout], ...]:
    """Architectures, and layouts of their visual tokens."""
    known = known_architectures().values()
    return tuple((each.name, layout) for each in known for layout in each.layouts)


def case_name(architecture: str, layout: Layout) -> str:
    """An architecture, and the layout where it has several."""
    several = len(known_architectures()[architecture].layouts) > 1
    return f"{architecture}, {layout}" if several else architecture


def affordable(method: Method) -> Method:
    """The method with a budget that it can meet on all models here; of half the tokens, if it
    can."""
    budgets = [with_keep(method, share) for share in SHARES]
    return next((chosen for chosen in budgets if _affords(chosen)), method)


def _affords(method: Method) -> bool:
    """Whether a method meets its budget; what else is wrong with it is not asked for here."""
    for case in every_case():
        try:
            planned_on(method, *case)
        except BudgetError:
            return False
        except InputError:
            continue
    return True


def shown_to(method: Method, architecture: str) -> int | None:
    """How many frames of a video a method is given on an architecture, None for a picture; raises
    UnsupportedError for a method for videos where the architecture takes none."""
    if not method.video:
        return None
    if not known_architectures()[architecture].takes_video:
        raise UnsupportedError("it compares the frames of a video, and this model takes none")
    return FRAMES


def planned_on(method: Method, architecture: str, layout: Layout) -> tuple[Plan, Request]:
    """The plan of a method, and the request that it is given; raises as `plan_for`."""
    shape = known_architectures()[architecture].micro()
    frames = shown_to(method, architecture)
    by_picture = by_size(shape, Workload(layout=layout, frames=frames))
    _, request = resized_for(method, (SIZE,), by_picture)
    return plan_for(method, request), request


def micro_model(architecture: str) -> Model:
    """A model of this architecture on the CPU, in float32, with random weights that make attention
    far from even, so that scores differ clearly."""
    import torch

    from ..models.load import load

    model = load(known_architectures()[architecture].micro(), device="cpu", dtype="float32", seed=1)
    with torch.no_grad():
        for name, weight in model.module.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                weight.mul_(6.0)
    return model
