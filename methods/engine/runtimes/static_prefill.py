"""Vision and prefill as CUDA graphs: one from lap to lap, over static inputs, replayed in order.

Only where the shapes of a request are the same each time and the host never has to look at a value.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from ...contract.plan import Plan
from ...contract.policies import Policy
from ...contract.request import Request
from ...contract.view import Notes
from ..context import Context
from ..ledger import Ledger
from ..prefill import Prompt, prefill
from .capture import Capture, Cut

LapKey = tuple[str, str, int | None]


@dataclass(frozen=True)
class PromptForm:
    """What captured graphs depend on: the request, what is planned and solved for it, and the
    tensors that it comes as."""

    request: Request
    plan: Plan
    policy: Policy
    solved: tuple[tuple[str, float], ...]
    tensors: tuple[tuple[str, tuple[int, ...], torch.dtype], ...]
    next_position: int
    ends: tuple[tuple[int, ...] | None, ...]

    @classmethod
    def of(cls, context: Context) -> PromptForm:
        inputs = context.inputs
        ends = (inputs.sequence_ends, inputs.window_ends)
        return cls(
            request=inputs.request,
            plan=context.plan,
            policy=context.policy,
            solved=tuple(sorted(context.notes.solved.items())),
            tensors=tuple((name, tuple(t.shape), t.dtype) for name, t in inputs.tensors.items()),
            next_position=inputs.next_position,
            ends=tuple(None if each is None else tuple(each.tolist()) for each in ends),
        )


class StaticPrefill:
    """The graphs of one form of prompt, made from a first request.

    Raises what the method raises on that request, before anything is captured.
    """

    def __init__(self, context: Context, capture: Capture) -> None:
        self._capture = capture
        self._inputs = context.inputs.map(torch.Tensor.clone)
        self._solved, self._drawn = context.notes.solved, dict[tuple[object, ...], Tensor]()
        self._laps: list[LapKey] = []
        capture.warm_up(lambda: self._run(context, self._laps))
        self.form = PromptForm.of(context)

    def capture(self, context: Context) -> None:
        """Capture the request that this was made from; its laps are where graphs end."""
        laps: list[LapKey] = []

        def work(cut: Cut) -> Prompt:
            return self._run(context, laps, cut)

        self._prompt, self._replays = self._capture.chain(work)
        self._states = [(layer.keys, layer.values) for layer in self._prompt.cache.layers]

    def replay(self, context: Context) -> Prompt:
        """Run the request of `context`, telling its laps."""
        self._inputs.fill(context.inputs)
        prompt = self._prompt
        for index, (replay, lap) in enumerate(zip(self._replays, self._laps, strict=True)):
            replay()
            if index == len(self._laps) - 1:  # the device is busy with what was launched so far
                prompt, context.ledger = self._own(), copy.deepcopy(self._ledger)
            context.lap(*lap)
        return prompt

    def _own(self) -> Prompt:
        """What the caller may keep; the caches alone stay where the next request fills them."""
        cache, copies = self._prompt.cache, dict[int, Tensor]()
        for layer, (keys, values) in zip(cache.layers, self._states, strict=True):
            layer.keys, layer.values = keys, values  # decode put others there
        for kept in self._prompt.kept:
            copies.setdefault(id(kept), kept.clone())
        return Prompt(
            logits=self._prompt.logits.clone(),
            token=self._prompt.token.clone(),
            kept=[copies[id(kept)] for kept in self._prompt.kept],
            cache=cache,
        )

    def _run(self, context: Context, laps: list[LapKey], cut: Cut | None = None) -> Prompt:
        """The request over the static inputs; `laps` holds those of this run when it is over."""
        laps.clear()
        last = len(self._laps) - 1

        def lap(phase: str, part: str, index: int | None = None) -> None:
            laps.append((phase, part, index))
            if cut and len(laps) <= last:
                cut()

        own = dataclasses.replace(
            context,
            inputs=self._inputs,
            notes=Notes(solved=self._solved, drawn=self._drawn),
            ledger=Ledger(),
            lap=lap,
        )
        prompt = prefill(own)
        self._ledger = own.ledger
        return prompt
