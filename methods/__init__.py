"""What is pruned: the registry of methods, one file per method, and all that an author imports.

Nothing here imports torch: planning starts without it.
"""

from .contract.choose import min_max, take, top, unit
from .contract.errors import InputError
from .contract.method import Keep, Method, knob
from .contract.plan import EncoderStage, Plan, Published, Stage, single_prune
from .contract.plugins import load_plugins
from .contract.registry import UnknownMethodError, method_class, names, register
from .contract.request import Budget, BudgetError, Encoder, Request, Segment
from .contract.scorer import Scorer
from .contract.spec import SpecError, format_spec, has_budget, parse, with_keep
from .contract.view import EncoderView, View

__all__ = [
    "Budget",
    "BudgetError",
    "Encoder",
    "EncoderStage",
    "EncoderView",
    "InputError",
    "Keep",
    "Method",
    "Plan",
    "Published",
    "Request",
    "Scorer",
    "Segment",
    "SpecError",
    "Stage",
    "UnknownMethodError",
    "View",
    "format_spec",
    "has_budget",
    "knob",
    "load_plugins",
    "method_class",
    "min_max",
    "names",
    "parse",
    "register",
    "single_prune",
    "take",
    "top",
    "unit",
    "with_keep",
]
