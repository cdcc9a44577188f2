"""A method in the engine, as a cell: under one attention policy and one runtime."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ...methods import Method, Plan
from ...methods.contract.containment import MethodFaultError, contained, location, own_files
from ...methods.contract.plan_checks import plan_for
from ...methods.contract.policies import Policy
from ...methods.engine.context import Lap, no_lap
from ...methods.engine.ledger import Ledger
from ...methods.engine.run import Trace, run
from ...methods.engine.runtimes import make_runtime
from ...methods.engine.runtimes.runtime import Runtime
from ...methods.engine.verify import require_finite
from ...reports.record import schema
from .. import cost
from ..meters import chrome_trace, flop_counter, memory, process_memory, torch_profile
from ..meters.clock import Timing, wait_for
from ..meters.host_waits import HostWaits
from ..models.model import Model
from ..subjects.bench_cell import BenchCell, Instruments
from ..workload import Preparation
from .hidden_state import (
    Answer,
    left_as_found,
    process_left_as_found,
    require_alike,
    require_same,
    require_unchanged,
)
from .kept_tokens import selections
from .new_length import first_at_new_length, lengths

COMPILED_WARMUPS = 4  # requests that may compile, capture or recompile


@dataclass
class EngineCell(BenchCell):
    """A method in the engine.

    method: the cell's own: what a plug-in keeps on it reaches no other cell. whole: the request of
    the record. plan: None where there is none, which `saved.error` says. own: the preparation of
    its own request, in which its method may have the picture resized; None where there is no plan.
    ledger: of the first request. answer: of the last warm-up, which each timed request must give.
    """

    method: Method
    policy: Policy
    runtime: Runtime
    saved: schema.Cell
    whole: Preparation
    plan: Plan | None = None
    own: Preparation | None = None
    ledger: Ledger | None = None
    answer: Answer | None = None
    _first: Trace | None = field(default=None, repr=False)
    _foreign: list[int] = field(default_factory=list, repr=False)

    @property
    def fewest_warmups(self) -> int:  # type: ignore[override]
        return 1 if self.runtime.name == "eager" else COMPILED_WARMUPS

    @property
    def model(self) -> Model:
        return self.whole.model

    @property
    def preparation(self) -> Preparation:
        """That of the cell's own request; raises as `Preparation.resized` where there is none."""
        if self.own is None:
            self.own = self.whole.resized(self.method)
        return self.own

    def prepare(self, tools: Instruments) -> None:
        """In the first process, hold the method to its plan and to itself."""
        self._foreign = [
            process_memory.allocated(device) - before
            for device, before in zip(tools.devices, tools.allocated, strict=True)
        ]
        self._first = None
        if not self.saved.warmups:
            self._first = self._hold_to_plan()
            with process_left_as_found(), contained():
                again = self._prefill()
            require_same(self._first, again)

    def warm(self, tools: Instruments) -> Timing:
        return self._timing(tools)[0]

    def sample(self, tools: Instruments) -> tuple[Timing, list[str]]:
        compiles = self.runtime.name == "compile"  # which has threads of its own
        with process_left_as_found(threads=not compiles):
            before, ran = self._asked(tools), self._gave_up
            timing, trace = self._timing(tools)
            counts = self._asked(tools)
            self._require_answer(trace)
            require_steady(self, trace)
            self._require_unchanged(trace)
            if self._gave_up != ran:
                raise RuntimeError(f"{self.runtime.name} gave up late: {self._gave_up}")
            self.saved.setups = dict(self.runtime.setups)
            return timing, [
                f"{what} in the window" for what in counts if counts[what] > before[what]
            ]

    def peak(self, tools: Instruments) -> memory.Peak:
        first, *others = self._foreign
        own = [first - self.runtime.hidden_bytes(), *others]
        peak, trace = memory.peak(tools.devices, self._untimed, own)
        self._require_answer(trace)
        if self._first is not None and self.runtime.name == "graph":
            require_alike(self._first, trace)
        self._first = None
        self.answer = Answer.of(trace)
        keep_counts(self, trace, self.preparation)
        tools.lengths |= lengths(trace.ledger)
        if tools.tokens:
            self._keep_tokens(trace)
        return peak

    def untimed(self) -> None:
        self._untimed()

    def repeat(self) -> None:
        self._require_answer(self._untimed())

    def flops(self, tools: Instruments) -> None:
        """What a compiled graph computes, torch does not see."""
        if self.runtime.name != "eager" and not self.runtime.fallback:
            self.saved.missing["flops"] = f"torch counts no FLOPs under {self.runtime.name}"
            return
        counted = flop_counter.flops(self._untimed)
        self.saved.counted_flops = counted.by_phase
        self.saved.table_flops = counted.tables
        self.saved.decision_flops = counted.decisions
        self.saved.uncounted_operators = counted.uncounted
        backend, seen = self.model.backend, " ".join(counted.uncounted)
        if backend.startswith("flash_attention") and "flash" not in seen:
            # FlashAttention-4 launches its kernels past torch's dispatcher.
            self.saved.uncounted_operators = [*counted.uncounted, backend]

    def activity(self, tools: Instruments) -> None:
        counted = torch_profile.count(tools.device, self._waited_for(tools))
        self.saved.activity, self.saved.kernels, self.saved.phase_kernels = counted

    def lengths(self, tools: Instruments) -> None:
        self.saved.new_length = first_at_new_length(
            self.model, self.preparation, self, tools.watch, tools.lengths
        )

    def decisions(self) -> None:
        """Look once more at the method's decisions, and at how often the host has to wait for
        them."""
        waits = HostWaits(own_files(self.method))
        with waits:
            self._hold_to_plan()
        self.saved.host_waits = dict(waits.seen)

    def trace(self, tools: Instruments, path: Path) -> None:
        chrome_trace.export(tools.device, self._waited_for(tools), path)

    def where(self, error: BaseException) -> str:
        return location(error, self.method)

    def release(self) -> None:
        self.runtime = make_runtime(self.runtime.name, self.model)

    def request(self, lap: Lap) -> Trace:
        """One request from picture to last token."""
        inputs = self.preparation()
        lap("preprocess", "preprocess")
        inputs = inputs.to(self.model.device)
        lap("transfer", "transfer")
        return run(
            self.model,
            inputs,
            self.method,
            attention=self.policy,
            solved=self.saved.solved,
            lap=lap,
            runtime=self.runtime,
        )

    @property
    def _gave_up(self) -> str:
        """Why it does not run as its runtime's name says."""
        return self.runtime.fallback or self.runtime.eager_prefill

    def _timing(self, tools: Instruments) -> tuple[Timing, Trace]:
        with contained():
            tools.watch.start()
            trace = self.request(tools.watch.lap)
            return tools.watch.stop(), trace

    def _untimed(self, lap: Lap = no_lap) -> Trace:
        """A request of a pass; the method is held to what it did before. Nothing else runs in it:
        it is counted."""
        with contained():
            trace = self.request(lap)
        require_steady(self, trace)
        return trace

    def _waited_for(self, tools: Instruments) -> Callable[[Lap], None]:
        """A request of a pass that is over on all devices but the first, which the pass waits
        for."""

        def request(lap: Lap) -> None:
            self._untimed(lap)
            wait_for(*tools.others)

        return request

    def _asked(self, tools: Instruments) -> dict[str, int]:
        """What must not be asked for in a timed window, and how often it has been so far."""
        asked = Counter(self.runtime.setups)
        for device in tools.devices:
            asked.update(process_memory.allocations(device))
        return asked

    def _hold_to_plan(self) -> Trace:
        """One untimed prefill in which each decision of the method is looked at; eager, for a graph
        or a compiled one would be made for prefill alone."""
        with left_as_found(self.model.module, self.method), contained():
            trace = self._prefill(verify=True)
        require_finite(trace.logits, "its logits")
        _require_numbers(self.saved.solved)
        keep_decisions(self, trace)
        return trace

    def _prefill(self, *, verify: bool = False) -> Trace:
        return run(
            self.model,
            self.preparation().to(self.model.device),
            self.method,
            attention=self.policy,
            new_tokens=1,
            solved=self.saved.solved,
            verify=verify,
        )

    def _require_answer(self, trace: Trace) -> None:
        """Behind the clock: what was timed gave an answer that can mean something."""
        if trace.tokens.shape[1] != self.whole.request.new_tokens:
            raise RuntimeError(f"it gave {trace.tokens.shape[1]} tokens")
        require_finite(trace.logits, "its logits")
        require_finite(trace.step_logits, "its logits of decode")

    def _require_unchanged(self, trace: Trace) -> None:
        """Behind the clock: a timed request gave what the first one gave."""
        now, exact = Answer.of(trace), self.model.device.type == "cpu"
        if self.answer is not None:
            require_unchanged(self.answer, now, exact=exact)
        self.answer = self.answer or now

    def _keep_tokens(self, trace: Trace) -> None:
        """Save which visual tokens of the record's picture stay."""
        if self.preparation is not self.whole:
            self.saved.missing["tokens"] = "a resized picture has other ones"
            return
        self.saved.kept = selections(trace, self.whole.request.visual)


def require_steady(cell: EngineCell, trace: Trace) -> None:
    """See that each request does what the first one did; raises MethodFaultError. Times of others
    are of different things."""
    first, now = cell.ledger, trace.ledger
    if first is None:
        cell.ledger = now
        return
    for what, before, after in (
        ("tokens in the vision tower", first.encoder_tokens, now.encoder_tokens),
        ("visual tokens entering the decoder layers", first.visual, now.visual),
        ("tokens in the KV caches", first.cached, now.cached),
        ("FLOPs of its decisions", first.select, now.select),
        ("what the projector is given", [first.projector], [now.projector]),
    ):
        if before != after:
            pairs = enumerate(itertools.zip_longest(before, after))
            index, (one, other) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
            raise MethodFaultError(
                f"it does not do the same in each request: {what} were {one} at first and {other} "
                f"later (number {index})"
            )


def keep_decisions(cell: EngineCell, trace: Trace) -> None:
    """Save what each decision of a verified request took beside its FLOPs."""
    cell.saved.decisions = [
        schema.Decision(site=str(one.site), operators=one.operators, scratch_bytes=one.scratch)
        for one in trace.decisions
    ]


def keep_counts(cell: EngineCell, trace: Trace, prepare: Preparation) -> None:
    """Save what a request of the cell showed, but for its times. prepare: the cell's own. Raises
    MethodFaultError for a plan or counts that are other ones than before."""
    model, request = prepare.model, prepare.request
    plan, saved = plan_for(cell.method, request), cell.saved
    if cell.plan not in (None, plan):
        raise MethodFaultError("its plan changes from call to call")
    if saved.visual_per_layer and saved.visual_per_layer != trace.visual_per_layer:
        raise MethodFaultError(
            "it keeps other numbers of visual tokens in this process than in the first"
        )
    items = cost.items(model.share, request, plan, trace.ledger, model.dtype.itemsize)
    saved.fallback = cell.runtime.fallback
    saved.eager_prefill = cell.runtime.eager_prefill
    saved.visual_per_layer = list(trace.visual_per_layer)
    saved.tokens_per_layer = list(trace.ledger.tokens)
    saved.kv_bytes_prefill = list(trace.kv_bytes.prefill)
    saved.kv_bytes_decode = list(trace.kv_bytes.decode)
    saved.generated_tokens = trace.tokens.shape[1]
    saved.cost = cost.as_record(items)
    saved.note = "; ".join(filter(None, (prepare.note, plan.note)))


def _require_numbers(solved: dict[str, float]) -> None:
    """See that what a method solved can be saved; raises MethodFaultError."""
    for key, value in solved.items():
        plain = isinstance(value, (int, float)) and math.isfinite(value)
        if not isinstance(key, str) or not plain:
            raise MethodFaultError(f"it solved {key!r} as {value!r}, which is no finite number")
