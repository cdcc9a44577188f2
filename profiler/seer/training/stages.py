"""The stages of training, and what each of their steps is given."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from ..model import new_tokenizer
from ..pictures import Drawing
from .batches import (
    GRID,
    PictureBatch,
    QuestionBatch,
    asked,
    cropped,
    pictures_of,
    questions_about,
    seen,
)

TOKENS = GRID * GRID
SPARSE = 144  # visual tokens of a picture in the decoder's stage
CACHED = 2048  # pictures of the decoder's stage


@dataclass(frozen=True)
class TrainingStage:
    """rate: the highest rate of learning. It rises for `warm` steps, and falls along a cosine that
    would reach `last` times itself after `curve` steps, or after all. tower: the tower's rate, as a
    share of it. stream: of the pictures."""

    name: str
    steps: int
    rate: float
    last: float
    pictures: int
    stream: int
    warm: int = 100
    curve: int = 0
    tower: float = 1.0

    def rate_at(self, step: int) -> float:
        if step < self.warm:
            return self.rate * (step + 1) / self.warm
        done = (step - self.warm) / max(1, max(self.curve, self.steps) - self.warm)
        return self.rate * (self.last + (1 - self.last) * (1 + math.cos(math.pi * done)) / 2)


STAGES = (
    TrainingStage("crops", 1000, 2e-3, 0.2, pictures=32, stream=10),
    TrainingStage("crops", 1000, 1.5e-3, 0.2, pictures=32, stream=14),
    TrainingStage("whole", 700, 1.5e-3, 0.1, pictures=12, stream=11, curve=1000),
    TrainingStage("decoder", 600, 2e-3, 0.1, pictures=16, stream=12),
    TrainingStage("joint", 560, 8e-4, 0.02, pictures=8, stream=13, warm=60, tower=0.7),
)


@dataclass(frozen=True)
class StepData:
    """What a step is given. pictures: none where features are kept. corner: row and column of the
    piece's first patch. places: [B, V], the visual tokens that are seen. text: none where nothing
    is asked."""

    pictures: PictureBatch | None = None
    corner: tuple[int, int] = (0, 0)
    places: Tensor | None = None
    text: QuestionBatch | None = None

    def to(self, device: torch.device) -> StepData:
        return StepData(
            None if self.pictures is None else self.pictures.to(device),
            self.corner,
            None if self.places is None else self.places.to(device),
            None if self.text is None else self.text.to(device),
        )


class Steps(Dataset[StepData]):
    """What each step of a stage is given; all of it follows from seed, stage and step."""

    def __init__(self, stage: TrainingStage, seed: int) -> None:
        self.stage, self.seed = stage, seed
        self.tokenizer = new_tokenizer()

    def __len__(self) -> int:
        return self.stage.steps

    def __getitem__(self, step: int) -> StepData:
        rng = np.random.default_rng([self.seed, self.stage.stream, step])
        given: StepData = getattr(self, f"_{self.stage.name}")(step, rng)
        return given

    def _pictures(self, step: int) -> list[Drawing]:
        return pictures_of(self.stage.stream, step, self.stage.pictures)

    def _crops(self, step: int, rng: np.random.Generator) -> StepData:
        row, column = (int(place) for place in rng.integers(0, GRID // 2 + 1, 2))
        whole = seen(self._pictures(step))
        return StepData(cropped(whole, (row, column), GRID // 2), (row, column))

    def _whole(self, step: int, rng: np.random.Generator) -> StepData:
        return StepData(seen(self._pictures(step)))

    def _decoder(self, step: int, rng: np.random.Generator) -> StepData:
        """Of pictures whose features are kept: 144 of their patches."""
        pictures = self._pictures(step % (CACHED // self.stage.pictures))
        places = torch.tensor(np.stack([_some(shown.owners, rng) for shown in pictures]))
        return StepData(places=places, text=self._asked(pictures, rng, suffix=False))

    def _joint(self, step: int, rng: np.random.Generator) -> StepData:
        """Every other step with POPE's suffix."""
        pictures = self._pictures(step)
        places = torch.arange(TOKENS).expand(len(pictures), -1)
        text = self._asked(pictures, rng, suffix=step % 2 == 1)
        return StepData(seen(pictures), places=places, text=text)

    def _asked(
        self, pictures: list[Drawing], rng: np.random.Generator, *, suffix: bool
    ) -> QuestionBatch:
        questions = questions_about(pictures, rng)
        return asked(questions, self.tokenizer, len(pictures), suffix=suffix)


def given_to(stage: TrainingStage, seed: int, first: int, workers: int) -> Iterable[StepData]:
    """Of the steps from `first` on. workers: processes that draw ahead; 0 for none."""
    steps = Subset(Steps(stage, seed), range(first, stage.steps))
    return DataLoader(steps, batch_size=None, num_workers=workers)


def _some(owners: Any, rng: np.random.Generator) -> Any:
    """144 of the 576 places in order, half of them from objects where there are so many."""
    flat = owners.reshape(-1)
    objects = rng.permutation(np.flatnonzero(flat >= 0))[: SPARSE // 2]
    rest = rng.permutation(np.setdiff1d(np.arange(TOKENS), objects))[: SPARSE - len(objects)]
    return np.sort(np.concatenate([objects, rest]))
