"""What is pruned: the registry of methods, one file per method, and all that an author imports.

Nothing here imports torch: planning starts without it.
"""

from .contract.choose import greedy, min_max, quotas, take, top, unit, units
from .contract.errors import InputError
from .contract.method import Keep, Method, knob
from .contract.plan import (
    Entering,
    Keys,
    Leaving,
    Plan,
    Price,
    Projected,
    Published,
    Rows,
    Site,
    Stage,
    Tower,
)
from .contract.plugins import load_plugins
from .contract.registry import UnknownMethodError, method_class, names, register
from .contract.request import Budget, BudgetError, Encoder, Request, Segment
from .contract.scorer import Scorer
from .contract.spec import SpecError, format_spec, has_budget, parse, with_keep
from .contract.view import View

__all__ = [
    "Budget",
    "BudgetError",
    "Encoder",
    "Entering",
    "InputError",
    "Keep",
    "Keys",
    "Leaving",
    "Method",
    "Plan",
    "Price",
    "Projected",
    "Published",
    "Request",
    "Rows",
    "Scorer",
    "Segment",
    "Site",
    "SpecError",
    "Stage",
    "Tower",
    "UnknownMethodError",
    "View",
    "format_spec",
    "greedy",
    "has_budget",
    "knob",
    "load_plugins",
    "method_class",
    "min_max",
    "names",
    "parse",
    "quotas",
    "register",
    "take",
    "top",
    "unit",
    "units",
    "with_keep",
]
