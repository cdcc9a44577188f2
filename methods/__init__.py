"""What is pruned: the registry of methods, one file per method, and all that an author imports.

Nothing here imports torch: planning starts without it.
"""

from .contract.choose import (
    Part,
    greedy,
    group_rank,
    in_parts,
    min_max,
    parts,
    quotas,
    round_shares,
    shares,
    take,
    top,
    top_in_groups,
    top_in_parts,
    unit,
    units,
)
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
from .contract.request import (
    Budget,
    BudgetError,
    Encoder,
    Request,
    Segment,
    Size,
    UnsupportedError,
)
from .contract.schedule import falling_counts, mean_visual, scored_in_tower
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
    "Part",
    "Plan",
    "Price",
    "Projected",
    "Published",
    "Request",
    "Rows",
    "Scorer",
    "Segment",
    "Site",
    "Size",
    "SpecError",
    "Stage",
    "Tower",
    "UnknownMethodError",
    "UnsupportedError",
    "View",
    "falling_counts",
    "format_spec",
    "greedy",
    "group_rank",
    "has_budget",
    "in_parts",
    "knob",
    "load_plugins",
    "mean_visual",
    "method_class",
    "min_max",
    "names",
    "parse",
    "parts",
    "quotas",
    "register",
    "round_shares",
    "scored_in_tower",
    "shares",
    "take",
    "top",
    "top_in_groups",
    "top_in_parts",
    "unit",
    "units",
    "with_keep",
]
