"""What a method sees at a stage: read-only, in the coordinates of the current sequence."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .request import Request

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Notes:
    """What one request carries from stage to stage, and what was solved on the warm-up.

    marks: boolean flags [B, n] on the current visual tokens, moved with them by the engine.
    kept: tensors that a method wants back at a later stage.
    solved: numbers found on the first request of a series and fixed from then on.
    drawn: random numbers by device, seed and shape, where drawing anew is not possible.
    """

    solved: dict[str, float] = field(default_factory=dict)
    marks: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[str, Tensor] = field(default_factory=dict)
    drawn: dict[tuple[object, ...], Tensor] | None = None


@dataclass(frozen=True)
class _Common:
    layer: int
    request: Request
    hidden: Tensor
    scores: Tensor | None
    published: bool
    notes: Notes

    @property
    def attention(self) -> Tensor:
        """The attention rows that the stage asked for; see the class."""
        if self.scores is None:
            raise RuntimeError(f"the plan asked for no attention rows at layer {self.layer}")
        return self.scores

    def solved(self, name: str, compute: Callable[[], float], *, layer: int | None = None) -> float:
        """`name` as solved on the first request, computed now if this is it.

        It belongs to the stage's layer, or to `layer` where several stages share it.
        """
        key = f"layer {self.layer if layer is None else layer} {name}"
        if key not in self.notes.solved:
            value = compute()
            if not math.isfinite(value):
                raise ValueError(f"{key} came out as {value}: the attention scores are not finite")
            self.notes.solved[key] = float(value)
        return self.notes.solved[key]

    def random(self, *shape: int, seed: int = 0) -> Tensor:
        """Uniform numbers in [0, 1), float32, on the device of the request, fixed by `seed`."""
        import torch

        device, drawn = self.hidden.device, self.notes.drawn
        key = (device, seed, shape)
        if drawn is not None and key in drawn:
            return drawn[key].clone()
        generator = torch.Generator(device=device).manual_seed(seed)
        numbers = torch.rand(shape, generator=generator, device=device)
        if drawn is not None:
            drawn[key] = numbers
        return numbers


@dataclass(frozen=True)
class View(_Common):
    """The decoder at a stage. `attention`: float32 [B, rows, n], post-softmax over all keys, mean
    over heads, cut to the n current visual tokens. `hidden`: [B, S, d], what the stage's layer
    receives (entering) or gave (leaving). `original`: int64 [B, n], where each visual token came
    from, -1 for a merged one.
    """

    start: int
    stop: int
    original: Tensor

    @property
    def count(self) -> int:
        return self.stop - self.start

    @property
    def visual(self) -> Tensor:
        """Hidden states of the visual tokens [B, n, d]."""
        return self.hidden[:, self.start : self.stop]

    @property
    def text(self) -> Tensor:
        """Hidden states of the tokens after the image [B, T, d]."""
        return self.hidden[:, self.stop :]

    @property
    def last(self) -> Tensor:
        """Hidden state of the last token [B, 1, d]."""
        return self.hidden[:, -1:]

    def mark(self, name: str) -> Tensor | None:
        """Flags [B, n] that a stage of the vision tower put on the visual tokens, if any did."""
        return self.notes.marks.get(name)


@dataclass(frozen=True)
class EncoderView(_Common):
    """The vision tower at a stage, tile by tile. `hidden`: [tiles, patches, d], without the class
    token. `attention`: float32 [tiles, rows, patches], post-softmax, mean over heads; one row for
    the class token, or one row that is the mean over all patches.
    """

    def mark(self, name: str, flags: Tensor) -> None:
        """Put boolean flags [tiles, patches] (or [B, visual]) on the tokens, for later stages."""
        self.notes.marks[name] = flags
