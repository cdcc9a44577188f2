"""What is pruned: the registry of methods, one file per method, and all that an author imports.

Nothing here imports torch: planning starts without it.
"""

from .contract.errors import InputError
from .contract.method import Keep, Method, knob
from .contract.plan import (
    Entering,
    Keys,
    Leaving,
    Plan,
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
from .contract.schedule import falling_counts, mean_visual, scaled_counts, scored_in_tower
from .contract.spec import SpecError, format_spec, has_budget, parse, with_keep
from .contract.view import View
from .selection.by_data import keep_reaching, largest_rank
from .selection.choose import (
    Part,
    cosines,
    flag_top,
    greedy,
    group_rank,
    in_parts,
    min_max,
    parts,
    quotas,
    round_shares,
    shares,
    spread_out,
    spread_out_in_rows,
    take,
    top,
    top_in_groups,
    top_in_parts,
    top_in_rows,
    unit,
    units,
)
from .selection.clusters import (
    cluster_each,
    component_weights,
    density_merge_flops,
    keep_and_merge,
    peak_scores,
    squared_distances,
    sums_of_nearest,
)
from .selection.frames import Frames, frames_of, scenes
from .selection.rotary import rotary_products
from .selection.scorer import Scorer
from .selection.suppression import suppressed
from .selection.trees import hang_on_trees, share_by_scene
from .selection.windows import merge_alike, segment_windows

__all__ = [
    "Budget",
    "BudgetError",
    "Encoder",
    "Entering",
    "Frames",
    "InputError",
    "Keep",
    "Keys",
    "Leaving",
    "Method",
    "Part",
    "Plan",
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
    "cluster_each",
    "component_weights",
    "cosines",
    "density_merge_flops",
    "falling_counts",
    "flag_top",
    "format_spec",
    "frames_of",
    "greedy",
    "group_rank",
    "hang_on_trees",
    "has_budget",
    "in_parts",
    "keep_and_merge",
    "keep_reaching",
    "knob",
    "largest_rank",
    "load_plugins",
    "mean_visual",
    "merge_alike",
    "method_class",
    "min_max",
    "names",
    "parse",
    "parts",
    "peak_scores",
    "quotas",
    "register",
    "rotary_products",
    "round_shares",
    "scaled_counts",
    "scenes",
    "scored_in_tower",
    "segment_windows",
    "share_by_scene",
    "shares",
    "spread_out",
    "spread_out_in_rows",
    "squared_distances",
    "sums_of_nearest",
    "suppressed",
    "take",
    "top",
    "top_in_groups",
    "top_in_parts",
    "top_in_rows",
    "unit",
    "units",
    "with_keep",
]
