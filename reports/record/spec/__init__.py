"""The specification of a run: what a user can ask for, declared once."""

from .options import OptionError, OptionField, Spec, fields_of, flag_of, unwrapped
from .parts import (
    LONGEST,
    LONGEST_PROMPT,
    ONE_REQUEST,
    PASSES,
    AccuracySpec,
    Cells,
    Extras,
    Layout,
    ModelSpec,
    Stopping,
    Workload,
)
from .run import (
    RunSpec,
    Subject,
    changed,
    from_validation,
    options_of,
    part_of,
    read,
    value_of,
)

__all__ = [
    "LONGEST",
    "LONGEST_PROMPT",
    "ONE_REQUEST",
    "PASSES",
    "AccuracySpec",
    "Cells",
    "Extras",
    "Layout",
    "ModelSpec",
    "OptionError",
    "OptionField",
    "RunSpec",
    "Spec",
    "Stopping",
    "Subject",
    "Workload",
    "changed",
    "fields_of",
    "flag_of",
    "from_validation",
    "options_of",
    "part_of",
    "read",
    "unwrapped",
    "value_of",
]
