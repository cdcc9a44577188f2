"""The public API: load, inputs, forward, compare, measure."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from ..methods import Method, parse
from ..methods.contract.errors import InputError
from ..methods.contract.policies import Policy, check_policy
from ..methods.engine.decoder import Inputs, require_own_lengths
from ..methods.engine.run import Trace, run
from ..reports.record.spec import ONE_REQUEST, OptionError, Workload, part_of
from .models.checkpoint.rotary import require_stateless
from .models.forks import require_own_code
from .models.load import load
from .models.model import Model
from .run.comparison import compare, measure
from .run.hidden_state import left_as_found
from .workload import Preparation

__all__ = ["compare", "forward", "inputs", "load", "measure"]


def inputs(
    model: Model, *, seed: int = 0, method: str | Method = "vanilla", **options: Any
) -> Inputs:
    """The tensors of one request, on the model's device; as `method` is given them, which matters
    where it has the picture resized.

    A mapping that `model.module(**inputs)` accepts (LLaVA-NeXT: with `layout="anyres"`, the only
    one that transformers knows). Options are those of the request on the command line, by keyword:
    `image` (file), `image_size` ("672x672", or height and width in pixels; a list of such pairs for
    several pictures), `prompt`, `text_tokens` (before, after),
    `layout`, `preprocess`, `visual_tokens`, `new_tokens`, `batch_size`. Raises OptionError,
    WorkloadError or ModelError; for the method what `forward` raises.
    """
    if "attention_mask" in options:
        raise OptionError("attention_mask", f"is not taken: a prompt {ONE_REQUEST}", "batch_size")
    chosen = parse(method) if isinstance(method, str) else method
    whole = Preparation(model, part_of(Workload, **options), seed)
    return whole.resized(chosen)().to(model.device)


def forward(
    model: Model,
    inputs: Inputs,
    method: str | Method = "vanilla",
    *,
    attention: Policy = "rows",
    new_tokens: int | None = None,
    solved: dict[str, float] | None = None,
    verify: bool = True,
) -> Trace:
    """Run one request with a method and return its trace (see Trace for shapes and units).

    method: a spec string such as "fastv:keep=320", or a Method. attention: how the layers that
    a method scores are computed: "rows" (the model's kernel, the rows beside it), "maps" (a full
    softmax map there) or "published" (what the released code runs). new_tokens: greedy tokens,
    the first one from prefill; None takes the inputs' own. solved: pass one dict to several calls
    to keep knobs that are solved on the first. verify: hold each decision against the plan, and
    what the request leaves behind against what it found, which makes the device wait; leave it out
    where you take the time yourself.
    Raises SpecError, UnknownMethodError, BudgetError; InputError for inputs of another origin, or
    that are no longer of the lengths of their request, as padded ones are.
    """
    check_policy(attention)
    if not isinstance(inputs, Inputs):
        raise InputError("inputs must come from tpprof.inputs: the engine needs their lengths")
    require_own_lengths(inputs)
    if new_tokens is not None and new_tokens < 1:
        raise InputError(f"new_tokens must be at least 1, not {new_tokens}")
    require_own_code(model.name, model.module)
    require_stateless(model.name, model.module)
    chosen = parse(method) if isinstance(method, str) else method
    with left_as_found(model.module, chosen) if verify else nullcontext():
        return run(
            model,
            inputs,
            chosen,
            attention=attention,
            new_tokens=new_tokens,
            solved=solved,
            verify=verify,
        )
