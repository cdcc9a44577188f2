"""What the phases of one request share: the model, the plan, the ledger, and the sequence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ..contract.arrangement import Arrangement
from ..contract.method import Keep, Method
from ..contract.plan import Plan
from ..contract.policies import Policy
from ..contract.view import Notes, Tag
from ..selection.choose import take
from .attention import Attention, Reading
from .decoder import Decoder, Inputs
from .devices import use
from .ledger import Ledger

if TYPE_CHECKING:
    from .runtimes.runtime import Runtime
    from .verify import DecisionCost


class Lap(Protocol):
    """Told after each part of a request: phase, part of the phase, layer or decode step."""

    def __call__(self, phase: str, part: str, index: int | None = None) -> None: ...


def no_lap(phase: str, part: str, index: int | None = None) -> None:
    return None


@dataclass
class Context:
    decoder: Decoder
    inputs: Inputs
    method: Method
    plan: Plan
    policy: Policy
    notes: Notes
    lap: Lap
    runtime: Runtime
    verify: bool = False
    ends: tuple[int, ...] = ()
    decisions: list[DecisionCost] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    attention: Attention = field(init=False)

    def __post_init__(self) -> None:
        self.attention = Attention(self.decoder.backend)

    @property
    def published(self) -> bool:
        return self.policy == "published"

    def set_attention(
        self,
        *,
        use_map: bool,
        reading: Reading | None,
        lap: Callable[[str], None] | None = None,
        lengths: tuple[int, ...] = (),
    ) -> None:
        released = self.plan.published
        self.attention.use_map = use_map
        self.attention.host_mask = bool(self.published and released and released.host_mask)
        self.attention.reading = reading
        self.attention.lap = lap
        self.attention.lengths = lengths

    def cross(self, device: torch.device, phase: str, index: int | None = None) -> None:
        """Go on with another device, to which all has been moved. The part `move` ends where it
        came from, and again where it goes on: from then on that device is timed."""
        self.lap(phase, "move", index)
        use(device)
        self.lap(phase, "move", index)

    def rest(self) -> None:
        """Let go of what the last layer was told: its lap leads back here, and such a circle holds
        the request's tensors until garbage is collected, which is off while the clock runs."""
        self.set_attention(use_map=False, reading=None)
        self.attention.masks.clear()


@dataclass
class TokenSequence:
    """The tokens on their way through the decoder: [B, S, ...], visual ones where `arrangement`
    says.

    original: where each visual token came from. sizes: how many each stands for; None while each
    stands for itself. added: by decoder layer, features [B, n, d] that are added to the visual
    tokens behind it (DeepStack). With the tags of the request they ride on the visual tokens: what
    goes takes them along, and a merged token has those of the one in whose place it stands.
    """

    hidden: Tensor
    cos: Tensor
    sin: Tensor
    arrangement: Arrangement
    original: Tensor
    sizes: Tensor | None = None
    added: dict[int, Tensor] = field(default_factory=dict)

    @property
    def length(self) -> int:
        return self.hidden.shape[1]

    def move(self, device: torch.device) -> None:
        """Go to another device, with all that rides on the tokens."""
        self.hidden, self.original = self.hidden.to(device), self.original.to(device)
        self.cos, self.sin = self.cos.to(device), self.sin.to(device)
        self.arrangement = self.arrangement.to(device)
        self.sizes = None if self.sizes is None else self.sizes.to(device)
        self.added = {layer: features.to(device) for layer, features in self.added.items()}


def arange(count: int, like: Tensor) -> Tensor:
    return torch.arange(count, device=like.device)


def kept_states(states: Tensor, keep: Keep) -> Tensor:
    return take(states, keep.index) if keep.features is None else keep.features


def trace_origin(original: Tensor, keep: Keep) -> Tensor:
    origins = original.gather(1, keep.index)
    return origins if keep.merges is None else origins.masked_fill(keep.merges, -1)


def move_riders(notes: Notes, sizes: Tensor | None, keep: Keep, count: int) -> Tensor | None:
    """Move what lies on `count` visual tokens beside their states as `keep` says: their tags, and
    their sizes, which are returned. Tags by units of several patches wait for the decoder."""
    for name, tag in notes.tags.items():
        if tag.values.shape[1] == count:
            wide = tag.values.dim() == 3
            moved = take(tag.values, keep.index) if wide else tag.values.gather(1, keep.index)
            notes.tags[name] = Tag(moved, tag.newline)
    if keep.sizes is not None or sizes is None:
        return keep.sizes
    return sizes.gather(1, keep.index)
