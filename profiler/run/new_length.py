"""What the first request at a length costs that never ran in this process.

Libraries set themselves up for each pair of numbers of queries and keys: cuDNN builds a plan, a
graph is captured anew, the allocator may ask the driver for memory. Warm-ups hide that; a server
whose pruned lengths depend on the picture pays it for each new one.
"""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING

from ...methods.contract.containment import contained
from ...methods.engine.ledger import Ledger
from ...methods.engine.run import Trace, run
from ...methods.engine.runtimes import make_runtime
from ...methods.engine.runtimes.runtime import Runtime
from ...reports.record import schema
from ..meters.clock import Stopwatch
from ..models.model import Model
from ..subjects.bench_cell import Length
from ..workload import Preparation
from .hidden_state import process_left_as_found

if TYPE_CHECKING:
    from .engine_cell import EngineCell

FOLLOWING = 3  # requests at the same length behind the first one, which show what is settled


def lengths(ledger: Ledger) -> set[Length]:
    """All pairs of lengths at which the decoder layers of a request attended."""
    prefill = {(count, count) for count in ledger.tokens}
    return prefill | {(1, keys) for step in ledger.decode_keys for keys in step}


def fewest_more(wanted: set[Length], seen: set[Length]) -> int:
    """The fewest text tokens, at least one, that make each of the lengths `wanted` one that was not
    seen: all of them grow by as many."""
    for extra in itertools.count(1):
        longer = {(rows if rows == 1 else rows + extra, keys + extra) for rows, keys in wanted}
        if not longer & seen:
            return extra
    raise AssertionError("integers do not end")


def first_at_new_length(
    model: Model, prepare: Preparation, cell: EngineCell, watch: Stopwatch, seen: set[Length]
) -> schema.NewLength:
    """Time the cell's request with just so many more text tokens that none of its lengths was
    `seen`, and then the same again; adds them to `seen`.

    Nothing of the cell is touched but a compiler's graphs: its method is a copy, and a graph is
    captured in a runtime of its own. Raises RuntimeError where a length was seen all the same, as
    of a method whose counts depend on the text.
    """
    assert cell.ledger is not None
    extra = fewest_more(lengths(cell.ledger), seen)
    longer, method = prepare.longer(extra), copy.deepcopy(cell.method)
    runtime, fell_back = _runtime(cell, model), cell.runtime.fallback
    solved, seconds = dict(cell.saved.solved), list[float]()
    for number in range(1 + FOLLOWING):
        with process_left_as_found(), contained():
            watch.start()
            inputs = longer()
            watch.lap("preprocess", "preprocess")
            trace: Trace = run(
                model,
                inputs.to(model.device),
                method,
                attention=cell.policy,
                solved=solved,
                lap=watch.lap,
                runtime=runtime,
            )
            seconds.append(watch.stop().latency)
        found = lengths(trace.ledger)
        if cell.runtime.fallback != fell_back:
            reason, cell.runtime.fallback = cell.runtime.fallback, fell_back
            raise RuntimeError(f"with more text it does not run under {runtime.name}: {reason}")
        old = found & seen if number == 0 else None
        seen |= found
        if old:
            raise RuntimeError("with more text it runs at lengths that were run before")
    return schema.NewLength(more_tokens=extra, seconds=seconds)


def _runtime(cell: EngineCell, model: Model) -> Runtime:
    """Compiled layers serve all lengths; a graph serves one, and the cell still needs its own."""
    if cell.runtime.name == "compile":
        return cell.runtime
    made = make_runtime("eager" if cell.runtime.fallback else cell.runtime.name, model)
    made.eager_prefill = cell.runtime.eager_prefill
    return made
