"""What is pruned: the registry of methods. One file per method; planning needs no torch."""

from .core.method import Keep, Method, knob
from .core.plan import EncoderStage, Plan, Published, Stage
from .core.registry import UnknownMethodError, method_class, names, register
from .core.request import Budget, BudgetError, Request
from .core.spec import SpecError, format_spec, has_budget, parse, with_keep

__all__ = [
    "Budget",
    "BudgetError",
    "EncoderStage",
    "Keep",
    "Method",
    "Plan",
    "Published",
    "Request",
    "SpecError",
    "Stage",
    "UnknownMethodError",
    "format_spec",
    "has_budget",
    "knob",
    "method_class",
    "names",
    "parse",
    "register",
    "with_keep",
]
