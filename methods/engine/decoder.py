"""What the engine needs of a multimodal model: one small protocol, and the inputs of a request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..contract.errors import InputError
from ..contract.request import Request
from .attention import Attention
from .ranks import Ranks

Resample = Callable[[Tensor], Tensor]
"""From values [B, n, c] on the projected patches of samples to those [B, m, c] on what is made of
them."""


class Inputs(dict[str, Tensor]):
    """The tensors of one request, under the names that the transformers model accepts.

    request: its lengths. positions: [B, S], or [3, B, S] with M-RoPE, int64.
    next_position: the position of the first decoded token.
    order: int64 [V] or None; place of each visual token among a sample's projected patches, the
    count of patches standing for the newline embedding (LLaVA-NeXT, layout "anyres").
    tower_order: int64 [n] or None; the place in the tower of each of a tile's patches, in the order
    of the visual tokens, where the tower has another (windows of Qwen2.5-VL).
    resample: what is done to projected patches before they are ordered; None for nothing.
    extras: further tensors that an architecture's vision tower wants. sequence_ends, window_ends:
    where each picture's patches end (Qwen2-VL), and each window's (Qwen2.5-VL); they stay on the
    host, where the tower reads them.
    """

    def __init__(
        self,
        tensors: dict[str, Tensor],
        *,
        request: Request,
        positions: Tensor,
        next_position: int,
        order: Tensor | None = None,
        tower_order: Tensor | None = None,
        resample: Resample | None = None,
        extras: dict[str, Tensor] | None = None,
        sequence_ends: Tensor | None = None,
        window_ends: Tensor | None = None,
    ) -> None:
        super().__init__(tensors)
        self.request = request
        self.positions = positions
        self.next_position = next_position
        self.order = order
        self.tower_order = tower_order
        self.resample = resample
        self.extras = extras or {}
        self.sequence_ends = sequence_ends
        self.window_ends = window_ends

    def to(self, device: torch.device | str) -> Inputs:
        """The same request on `device`; the copies are queued where the host memory allows it."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def map(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        """The same request with `change` of each tensor on the device."""
        return Inputs(
            {name: change(tensor) for name, tensor in self.items()},
            request=self.request,
            positions=change(self.positions),
            next_position=self.next_position,
            order=None if self.order is None else change(self.order),
            tower_order=None if self.tower_order is None else change(self.tower_order),
            resample=self.resample,
            extras={name: change(tensor) for name, tensor in self.extras.items()},
            sequence_ends=self.sequence_ends,
            window_ends=self.window_ends,
        )

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors on the device, by name."""
        own = {"positions": self.positions}
        if self.order is not None:
            own["order"] = self.order
        if self.tower_order is not None:
            own["tower_order"] = self.tower_order
        return {**self, **self.extras, **own}

    def fill(self, other: Inputs) -> None:
        """Copy the tensors of another request of the same form into those of this one."""
        theirs = other.tensors
        for name, tensor in self.tensors.items():
            tensor.copy_(theirs[name], non_blocking=True)


def require_own_lengths(inputs: Inputs) -> None:
    """Raises InputError for inputs that were changed to hold other lengths than their request, or
    that hide some positions: the engine would take padding for text."""
    batch, length = inputs.request.batch, inputs.request.length
    for name in ("input_ids", "inputs_embeds", "attention_mask"):
        tensor = inputs.get(name)
        if tensor is None:
            continue
        if tuple(tensor.shape[:2]) != (batch, length):
            raise InputError(
                f"{name} is {' x '.join(map(str, tensor.shape))}, and its request {batch} x "
                f"{length} (batch x tokens): have tpprof.inputs make one of those lengths"
            )
        if name == "attention_mask" and not bool(tensor.all()):
            raise InputError(
                f"attention_mask hides {int((tensor == 0).sum())} of {tensor.numel()} positions: "
                "the engine knows no padding; run requests of other lengths one by one"
            )


class TowerBlock(Protocol):
    """A block of the vision tower, whole or in its two halves: hidden states in, hidden states
    out, residuals included. bias: added to the scaled products of attention, [tiles, 1, 1, keys].
    """

    def __call__(self, hidden: Tensor, tpprof: Attention, bias: Tensor | None = None) -> Tensor: ...

    def attend(self, hidden: Tensor, tpprof: Attention, bias: Tensor | None = None) -> Tensor:
        """Its first half: norm, attention, residual."""
        ...

    def feed_forward(self, hidden: Tensor) -> Tensor:
        """Its second half: norm, FFN, residual."""
        ...


class BlockRunner(Protocol):
    """The engine's side of the vision tower: runs a block and lets the method act on its output."""

    def __call__(self, layer: int, block: TowerBlock, hidden: Tensor) -> Tensor: ...

    def add_behind(self, layer: int, features: Tensor) -> None:
        """Given projected features [B, n, d] that are added to the visual tokens behind decoder
        layer `layer` (DeepStack of Qwen3-VL)."""
        ...

    def leave(self, hidden: Tensor) -> None:
        """Told what the projector is given, class tokens no more among it: [tiles, n, d], or
        [patches of all samples, d]."""
        ...


class Decoder(Protocol):
    """A multimodal model as the engine sees it; `profiler/models/` adapts each architecture.

    backend: its attention kernel. ranks: the processes over which the heads of its decoder layers
    are spread; None where this one has them all. devices: of each decoder layer; where they differ,
    the embedding, the vision tower and the rotary tables are on that of the first. head_device: of
    the head.
    """

    backend: str
    ranks: Ranks | None
    devices: Sequence[torch.device]
    head_device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and hidden states."""
        ...

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The decoder layers, each callable as transformers calls them."""
        ...

    @property
    def text_config(self) -> Any:
        """The config that names the attention implementation of the decoder layers."""
        ...

    @property
    def vision_config(self) -> Any:
        """The config that names the attention implementation of the vision tower."""
        ...

    @property
    def newline(self) -> Tensor | None:
        """The newline embedding [d], where the layout of the visual tokens has newlines."""
        ...

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings [B, S, d] of int64 ids [B, S]."""
        ...

    def encode(self, inputs: Inputs, tower: BlockRunner) -> Tensor:
        """Projected patches [B, tiles * patches, d]: vision tower, block by block, and projector.

        Every tower block goes through `tower`, which may return fewer tokens than it was given.
        """
        ...

    def rotary(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine [B, S, head_dim] for `positions` ([B, S], or [3, B, S] with M-RoPE), on
        the device of `hidden`."""
        ...

    def norm(self, hidden: Tensor) -> Tensor:
        """The norm behind the last decoder layer, on hidden states [..., d] on any of `devices`."""
        ...

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [B, S, vocabulary] of decoder outputs [B, S, d]: final norm and LM head."""
        ...
