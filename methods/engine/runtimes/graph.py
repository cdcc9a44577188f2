"""Requests as CUDA graphs: vision and prefill from lap to lap, decode step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...contract.containment import location
from ...contract.errors import first_line
from ...contract.policies import RuntimeName
from ..decode import decode, first_positions, rotary_tables
from ..decoder import Decoder
from ..layer import PositionEmbeddings
from ..prefill import Prompt
from .capture import Capture, CudaCapture, Replay
from .runtime import Runtime
from .static_decode import DecodeForm, StaticDecode
from .static_prefill import PromptForm, StaticPrefill

if TYPE_CHECKING:
    from ..context import Context


MOST_STEPS = 512  # each has a graph of its own, over exactly the keys that eager decode has


@dataclass(frozen=True)
class CapturedSteps:
    """Decode of one form: what replays its steps, and where each leaves its answer."""

    form: DecodeForm
    static: StaticDecode
    replays: list[Replay]
    logits: list[Tensor]
    tokens: list[Tensor]


class GraphRuntime(Runtime):
    """Prefill and decode replayed as CUDA graphs, each captured on the first request of its form.

    A prefill that cannot be captured (a decision may make the host wait) runs eagerly, and decode
    is replayed all the same. captures: how often something was captured.
    `capture` stands in for CUDA graphs where there is no CUDA device.
    """

    name: RuntimeName = "graph"

    def __init__(
        self, decoder: Decoder, *, capture: Callable[[torch.device], Capture] | None = None
    ) -> None:
        super().__init__(decoder)
        self.captures = 0
        self._new_capture = capture or CudaCapture
        self._device = next(decoder.layers[0].parameters()).device
        self._prompt: StaticPrefill | None = None
        self._steps: CapturedSteps | None = None
        self._held: dict[str, Capture] = {}
        if capture is None and self._device.type != "cuda":
            self.fallback = "needs a CUDA device"

    @property
    def setups(self) -> dict[str, int]:
        return {"captures": self.captures}

    def hidden_bytes(self) -> int:
        return sum(capture.hidden_bytes() for capture in self._held.values())

    def prefill(self, context: Context) -> Prompt:
        self.fallback = self.fallback or _unfit(context)
        if self.fallback or self.eager_prefill or context.verify:  # verifying makes the host wait
            return super().prefill(context)
        if self._prompt is None or self._prompt.form != PromptForm.of(context):
            self._prompt = None  # what the last one held is free before more is asked for
            capture = self._held["prefill"] = self._new_capture(self._device)
            prompt = StaticPrefill(context, capture)
            try:
                prompt.capture(context)
            except Exception as error:
                self.eager_prefill = first_line(error) + location(error, context.method)
            if self.eager_prefill:  # outside: the error holds all that was captured
                del self._held["prefill"], prompt, capture
                return super().prefill(context)
            self.captures += 1
            self._prompt = prompt
        return self._prompt.replay(context)

    def decode(
        self, context: Context, cache: Any, tokens: list[Tensor], new_tokens: int
    ) -> list[Tensor]:
        steps = new_tokens - 1
        if self.fallback or not steps:
            return decode(context, cache, tokens, new_tokens)
        cached = context.ledger.cached
        starts = first_positions(context, context.ledger)
        distinct = sorted(set(starts))
        by_start = rotary_tables(context, starts, steps)
        tables = [by_start[start] for start in distinct]
        numbers = tuple(distinct.index(start) for start in starts)
        form = DecodeForm(tuple(cached), numbers, tokens[-1].shape[0], steps)
        if self._steps is None or self._steps.form != form:
            self._steps = None  # what the last one held is free before more is asked for
            try:
                self._steps = self._captured_steps(form, cache, tables, tokens[-1])
            except Exception as error:
                self._give_up(first_line(error))
        if self._steps is None:
            return decode(context, cache, tokens, new_tokens)
        captured = self._steps
        captured.static.fill(cache, tables, tokens[-1])
        context.lap("decode", "fill")
        for step, replay in enumerate(captured.replays):
            context.ledger.decode_keys.append([count + step + 1 for count in cached])
            replay()
            context.lap("decode", "token", step)
        tokens.extend(captured.tokens)
        return captured.logits

    def _captured_steps(
        self, form: DecodeForm, cache: Any, tables: list[PositionEmbeddings], token: Tensor
    ) -> CapturedSteps:
        static = StaticDecode(Runtime(self.decoder), cache, form, tables, token)
        capture = self._held["decode"] = self._new_capture(self._device)
        capture.warm_up(lambda: static.run(_no_cut))
        (logits, chosen), replays = capture.chain(static.run)
        self.captures += 1
        return CapturedSteps(form, static, replays, logits, chosen)

    def _give_up(self, reason: str) -> None:
        """Run eagerly from now on, and hold nothing."""
        self.fallback = reason
        self._prompt = self._steps = None
        self._held.clear()


def _no_cut() -> None:
    return None


def _unfit(context: Context) -> str:
    """Why this request cannot be captured at all; "" if it may be."""
    released = context.plan.published if context.published else None
    if released and released.decode:
        return "the released code builds positions and masks on the host in decode"
    if released and released.host_mask and context.decoder.backend == "eager":
        return "the released code builds masks on the host in decode"
    if context.inputs.request.new_tokens > MOST_STEPS + 1:
        return f"each decode step has a graph of its own, and no more than {MOST_STEPS} are made"
    return ""
