"""The public API: load, inputs, forward, compare, measure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from ..methods import Method, format_spec, parse
from ..methods.contract.errors import InputError
from ..methods.contract.policies import Policy, check_policy
from ..methods.engine.decoder import Inputs, require_own_lengths
from ..methods.engine.run import Trace, run
from ..reports.record import schema
from ..reports.record.spec import ONE_REQUEST, PASSES, OptionError, RunSpec, Workload, part_of
from .accuracy.beside import with_accuracy
from .models.checkpoint.rotary import require_stateless
from .models.forks import require_own_code
from .models.load import load
from .models.model import Model
from .run.comparison import Comparison
from .run.hidden_state import left_as_found
from .subjects.callables import Given, callable_object
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


def compare(
    methods: str | Method | Sequence[str | Method],
    *,
    model: str | Model | None = None,
    passes: bool | Sequence[str] = True,
    fresh: bool = True,
    **options: Any,
) -> schema.Record:
    """Measure methods side by side and return the record that `tpprof compare` saves.

    methods: spec strings or Methods; vanilla is always measured, first. model: a name, or a model
    that is loaded. passes: what is measured behind the rounds (`("energy", "flops")`), True for
    all, False for times alone. fresh: whether each round of a callable begins in a fresh process;
    needless where this program is one of several. options: those of `tpprof compare`, by keyword
    (`rounds=6`, `attention=["rows"]`, `image_size=(336, 336)`).
    Raises InputError or OptionError for what does not exist or does not fit.
    """
    listed = [methods] if isinstance(methods, (str, Method)) else methods
    specs = [format_spec(m) if isinstance(m, Method) else m for m in listed]
    loaded = model if isinstance(model, Model) else None
    named = loaded.name if loaded is not None else model
    if isinstance(options.get("keep"), (int, float)):
        options["keep"] = str(options["keep"])
    spec = RunSpec.of(methods=specs, model=named, passes=_passes(passes), **options)
    if loaded is not None and spec.accuracy.accuracy:
        raise OptionError(
            "accuracy", "is asked for in a process of its own, which loads the model: name it"
        )
    record = Comparison(spec, model=loaded, fresh=fresh).run()
    return with_accuracy(record) if spec.accuracy.accuracy else record


def measure(
    callables: Mapping[str, Any],
    *,
    inputs: Any = None,
    passes: bool | Sequence[str] = True,
    **options: Any,
) -> schema.Record:
    """Measure callables side by side and return the record that `tpprof compare` saves.

    callables: by name, functions, transformers models, or `"pkg.mod:function"`, which runs in a
    process of its own. What all are compared with is called `vanilla`, or stands first. inputs:
    what each is called with, a mapping such as a processor returns, or a function that makes one
    for each request, on the clock; None where they take none or declare their own. passes: as
    `compare`. options: those of `tpprof compare`, by keyword (`rounds=6`, `new_tokens=32`,
    `device="cuda"`, `python=["env/bin/python"]`).
    Raises InputError or OptionError for what does not exist or does not fit.
    """
    if not isinstance(callables, Mapping) or not callables:
        raise InputError("nothing to measure: give callables by name, in a dict")
    for called in callables:
        if not isinstance(called, str) or not called.strip() or "=" in called:
            raise InputError(f"{called!r} names no callable: give a text without =")
    listed = [f"{name}={_reference(found)}" for name, found in callables.items()]
    spec = RunSpec.of(callable=listed, passes=_passes(passes), **options)
    if spec.stopping.isolate and any(map(callable_object, callables.values())):
        raise OptionError(
            "isolate", 'needs references ("pkg.mod:function"): a process cannot be given an object'
        )
    return Comparison(spec, given=Given(callables, inputs)).run()


def _reference(found: Any) -> str:
    """What a record says of an object of this program."""
    if not callable_object(found):
        return str(found)
    named = found if hasattr(found, "__qualname__") else type(found)
    return f"{named.__module__}:{re.sub(r'[^.0-9A-Za-z_]', '', named.__qualname__)}"


def _passes(passes: bool | str | Sequence[str]) -> Sequence[str]:
    if isinstance(passes, bool):
        return PASSES if passes else ()
    return [passes] if isinstance(passes, str) else passes
