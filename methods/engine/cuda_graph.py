"""Decode as a CUDA graph: one step over static buffers, captured once and replayed per token.

The buffers have exactly the pruned length of each layer's cache plus room for the tokens to come,
so their bytes are those of the eager cache after decode. They stay from request to request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..contract.errors import first_line
from ..contract.policies import RuntimeName
from .attention import Attention
from .decode import decode, first_positions, rotary_tables
from .decoder import Decoder
from .runtime import PositionEmbeddings, Runtime

if TYPE_CHECKING:
    from .context import Context

Capture = Callable[[torch.device, Callable[[], None], Callable[[], None]], Callable[[], None]]
"""Given the device, one decode step and what rewinds the step counter: what replays the step."""
WARM_UPS = 3  # as torch's documentation of CUDA graphs has it: libraries set themselves up first


@dataclass(frozen=True)
class Form:
    """What a captured step depends on: tokens cached per layer, which layers share positions
    (each layer's number among the distinct first positions), samples, and decode steps."""

    cached: tuple[int, ...]
    tables: tuple[int, ...]
    batch: int
    steps: int


class StaticDecode:
    """One greedy decode step over static buffers; nothing in it makes the host wait or choose.

    keys, values: per layer [B, Hkv, cached + steps, head_dim]. logits: [steps, B, vocabulary].
    tokens: int64 [steps, B, 1]. It is also the cache that the layers are given.
    """

    def __init__(
        self, runtime: Runtime, cache: Any, form: Form, tables: list[PositionEmbeddings]
    ) -> None:
        self._runtime = runtime
        self._form = form
        self._attention = Attention(runtime.decoder.backend)
        self.keys = [_longer(layer.keys, form.steps) for layer in cache.layers]
        self.values = [_longer(layer.values, form.steps) for layer in cache.layers]
        self._tables = [(cos.clone(), sin.clone()) for cos, sin in tables]
        like = self.keys[0]
        self.device = like.device
        self._token = torch.zeros(form.batch, 1, dtype=torch.int64, device=self.device)
        self._step = torch.zeros(1, dtype=torch.int64, device=self.device)
        self._slots = torch.arange(max(form.cached) + form.steps, device=self.device)
        self._seen = torch.zeros((), dtype=like.dtype, device=self.device)
        self._unseen = torch.full_like(self._seen, torch.finfo(like.dtype).min)
        self._write = self._step
        self.tokens = self._token.new_zeros(form.steps, form.batch, 1)
        self.logits: Tensor | None = None  # the first step, never a captured one, knows its shape

    def fill(self, cache: Any, tables: list[PositionEmbeddings], token: Tensor) -> None:
        """Begin a request: its cache, its positions and its first token [B, 1].

        Frees the tensors of `cache`, whose layers hold the static buffers from then on.
        """
        for index, layer in enumerate(cache.layers):
            count = self._form.cached[index]
            for name, buffer in (("keys", self.keys[index]), ("values", self.values[index])):
                buffer[:, :, :count].copy_(getattr(layer, name))
                # Unseen values have weight 0, but 0 * inf of an earlier request would be NaN.
                buffer[:, :, count:].zero_()
                setattr(layer, name, buffer)
        for own, given in zip(self._tables, tables, strict=True):
            for mine, theirs in zip(own, given, strict=True):
                mine.copy_(theirs)
        self._token.copy_(token)
        self.rewind()

    def rewind(self) -> None:
        self._step.zero_()

    def step(self) -> None:
        """Decode `_token`: logits and the next token go to their place, the counter moves on."""
        form, decoder = self._form, self._runtime.decoder
        write = {count: self._step + count for count in set(form.cached)}
        masks = {count: self._mask(count, slot) for count, slot in write.items()}
        tables = [
            (cos.index_select(1, self._step), sin.index_select(1, self._step))
            for cos, sin in self._tables
        ]
        hidden = decoder.embed(self._token)
        for index, count in enumerate(form.cached):
            self._write = write[count]
            hidden = self._runtime.layer(
                index,
                hidden,
                cache=self,
                position_embeddings=tables[form.tables[index]],
                attention=self._attention,
                mask=masks[count],
            )
        logits = decoder.head(hidden)[:, 0]
        if self.logits is None:
            self.logits = logits.new_zeros(form.steps, *logits.shape)
        self.logits.index_copy_(0, self._step, logits[None])
        self._token.copy_(logits.argmax(-1, keepdim=True))
        self.tokens.index_copy_(0, self._step, self._token[None])
        self._step.add_(1)

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *args: Any, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """Write [B, Hkv, 1, head_dim] and return the whole buffers, as a transformers cache."""
        self.keys[layer].index_copy_(2, self._write, keys)
        self.values[layer].index_copy_(2, self._write, values)
        return self.keys[layer], self.values[layer]

    def _mask(self, count: int, last: Tensor) -> Tensor:
        """Additive mask [1, 1, 1, keys] that hides what lies behind slot `last`."""
        slots = self._slots[: count + self._form.steps]
        return torch.where(slots <= last, self._seen, self._unseen)[None, None, None]


class GraphRuntime(Runtime):
    """Decode replayed as a CUDA graph; vision and prefill run eagerly.

    captures: how often a step was captured: once, and again whenever the lengths change.
    `capture` stands in for the CUDA graph where there is no CUDA device.
    """

    name: RuntimeName = "graph"

    def __init__(self, decoder: Decoder, *, capture: Capture | None = None) -> None:
        super().__init__(decoder)
        self.captures = 0
        self._capture = capture or capture_cuda_graph
        self._form: Form | None = None
        self._static: StaticDecode | None = None
        self._replay: Callable[[], None] | None = None
        device = next(decoder.layers[0].parameters()).device
        if capture is None and device.type != "cuda":
            self.fallback = "needs a CUDA device"
        elif decoder.backend not in ("sdpa", "eager"):
            self.fallback = f"{decoder.backend} takes no additive mask, which static caches need"

    @property
    def setups(self) -> dict[str, int]:
        return {"captures": self.captures}

    def decode(
        self, context: Context, cache: Any, tokens: list[Tensor], new_tokens: int
    ) -> list[Tensor]:
        self.fallback = self.fallback or _unfit(context, new_tokens)
        if self.fallback:
            return decode(context, cache, tokens, new_tokens)
        steps = new_tokens - 1
        cached = context.ledger.cached
        starts = first_positions(context, cached)
        distinct = sorted(set(starts))
        by_start = rotary_tables(context, starts, steps)
        tables = [by_start[start] for start in distinct]
        numbers = tuple(distinct.index(start) for start in starts)
        form = Form(tuple(cached), numbers, tokens[-1].shape[0], steps)
        try:
            static, replay = self._captured(cache, form, tables)
        except Exception as error:
            # What ended the capture hides behind the complaint that the capture was ended.
            self.fallback = first_line(error.__context__ or error)
            self._form = self._static = self._replay = None
            return decode(context, cache, tokens, new_tokens)
        static.fill(cache, tables, tokens[-1])
        context.lap("decode", "fill")
        for step in range(steps):
            context.ledger.decode_keys.append([count + step + 1 for count in cached])
            replay()
            context.lap("decode", "token", step)
        tokens.extend(static.tokens)
        return list(static.logits) if static.logits is not None else []

    def _captured(
        self, cache: Any, form: Form, tables: list[PositionEmbeddings]
    ) -> tuple[StaticDecode, Callable[[], None]]:
        if self._static is None or self._replay is None or self._form != form:
            # What the last one held is free before more is asked for.
            self._form = self._static = self._replay = None
            static = StaticDecode(Runtime(self.decoder), cache, form, tables)
            replay = self._capture(static.device, static.step, static.rewind)
            self.captures += 1
            self._form, self._static, self._replay = form, static, replay
        return self._static, self._replay


def capture_cuda_graph(
    device: torch.device, step: Callable[[], None], rewind: Callable[[], None]
) -> Callable[[], None]:
    """Warm `step` up beside the current stream, capture it, and return what replays it."""
    with torch.cuda.device(device):
        own = torch.cuda.current_stream()
        side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        graph = torch.cuda.CUDAGraph()
        try:
            side.wait_stream(own)
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):
                    rewind()
                    step()
            own.wait_stream(side)
            # Threads that watch power or memory meanwhile must not end the capture.
            with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
                step()
        finally:
            torch.cuda.set_stream(own)  # a capture that fails leaves its own stream current
    replay: Callable[[], None] = graph.replay
    return replay


def _unfit(context: Context, new_tokens: int) -> str:
    """Why this request cannot be captured; "" if it can."""
    if new_tokens <= 1:
        return "one new token comes from prefill: there is nothing to decode"
    released = context.plan.published if context.published else None
    if released and released.decode:
        return "the released code builds positions and masks on the host in decode"
    if released and released.host_mask and context.decoder.backend == "eager":
        return "the released code builds masks on the host in decode"
    return ""


def _longer(tensor: Tensor, steps: int) -> Tensor:
    """Zeros [B, Hkv, cached + steps, head_dim] like `tensor`, which has the cached tokens."""
    batch, heads, cached, width = tensor.shape
    return tensor.new_zeros(batch, heads, cached + steps, width)
