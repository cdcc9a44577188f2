"""The stages of training, and what each of their steps is given."""

from __future__ import annotations

import dataclasses
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
    Mix,
    PictureBatch,
    QuestionBatch,
    asked,
    cropped,
    pictures_of,
    questions_about,
    seen,
)

TOKENS = GRID * GRID


@dataclass(frozen=True)
class TrainingStage:
    """rate: the highest rate of learning. It rises for `warm` steps, and falls along a cosine that
    would reach `last` times itself after `curve` steps, or after all. tower: the tower's rate, as a
    share of it. stream: of the pictures. kept: how many of them a decoder's stage goes through
    again and again. sparse: how many of their visual tokens it sees. suffix: whether POPE's stands
    behind the questions of every other step. looks: weight of what nouns look like. mix: of the
    questions. of_four: one picture in so many is four in one."""

    name: str
    steps: int
    rate: float
    last: float
    pictures: int
    stream: int
    warm: int = 100
    curve: int = 0
    tower: float = 1.0
    kept: int = 2048
    sparse: int = 144
    suffix: bool = False
    looks: float = 0.0
    mix: Mix = Mix()
    of_four: int = 8

    def rate_at(self, step: int) -> float:
        if step < self.warm:
            return self.rate * (step + 1) / self.warm
        done = (step - self.warm) / max(1, max(self.curve, self.steps) - self.warm)
        return self.rate * (self.last + (1 - self.last) * (1 + math.cos(math.pi * done)) / 2)


PLACES = Mix(
    random=0,
    popular=0,
    adversarial=1,
    where=4,
    attributes=2,
    halves=2,
    which=4,
    quadrants=4,
    most=10,
)
"""Questions that teach where things are, and what was learnt before beside them."""
ALL = Mix(popular=0, adversarial=1, where=4, attributes=2, which=4, quadrants=2, most=10)
"""Questions of all kinds but halves."""
POPE_AGAIN = Mix(where=2, attributes=2, which=4, most=12)
"""Questions of all kinds but halves, most of them POPE's."""
WHOLE = TrainingStage(
    "decoder",
    240,
    8e-4,
    0.02,
    pictures=8,
    stream=16,
    warm=10,
    kept=768,
    sparse=TOKENS,
    suffix=True,
    looks=0.5,
    mix=ALL,
    of_four=4,
)
STAGES = (
    TrainingStage("crops", 1000, 2e-3, 0.2, pictures=32, stream=10),
    TrainingStage("crops", 1000, 1.5e-3, 0.2, pictures=32, stream=14),
    TrainingStage("whole", 700, 1.5e-3, 0.1, pictures=12, stream=11, curve=1000),
    TrainingStage("decoder", 600, 2e-3, 0.1, pictures=16, stream=12),
    TrainingStage("joint", 560, 8e-4, 0.02, pictures=8, stream=13, warm=60, tower=0.7, suffix=True),
    TrainingStage(
        "decoder",
        415,
        1.5e-3,
        0.2,
        pictures=16,
        stream=15,
        warm=30,
        curve=700,
        kept=1024,
        sparse=96,
        looks=1.0,
        mix=PLACES,
        of_four=4,
    ),
    WHOLE,
    dataclasses.replace(WHOLE, steps=150, rate=6e-4, stream=17, mix=POPE_AGAIN),
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
        return pictures_of(self.stage.stream, step, self.stage.pictures, self.stage.of_four)

    def _crops(self, step: int, rng: np.random.Generator) -> StepData:
        row, column = (int(place) for place in rng.integers(0, GRID // 2 + 1, 2))
        whole = seen(self._pictures(step))
        return StepData(cropped(whole, (row, column), GRID // 2), (row, column))

    def _whole(self, step: int, rng: np.random.Generator) -> StepData:
        return StepData(seen(self._pictures(step)))

    def _decoder(self, step: int, rng: np.random.Generator) -> StepData:
        """Of pictures whose features are kept: some of their patches."""
        pictures = self._pictures(step % (self.stage.kept // self.stage.pictures))
        sparse = self.stage.sparse
        places = torch.tensor(np.stack([_some(shown.owners, rng, sparse) for shown in pictures]))
        return StepData(places=places, text=self._asked(pictures, rng, step))

    def _joint(self, step: int, rng: np.random.Generator) -> StepData:
        pictures = self._pictures(step)
        places = torch.arange(TOKENS).expand(len(pictures), -1)
        return StepData(seen(pictures), places=places, text=self._asked(pictures, rng, step))

    def _asked(self, pictures: list[Drawing], rng: np.random.Generator, step: int) -> QuestionBatch:
        questions = questions_about(pictures, rng, self.stage.mix)
        suffix = self.stage.suffix and step % 2 == 1
        return asked(questions, self.tokenizer, pictures, suffix=suffix, most=self.stage.mix.most)


def given_to(stage: TrainingStage, seed: int, first: int, workers: int) -> Iterable[StepData]:
    """Of the steps from `first` on. workers: processes that draw ahead; 0 for none."""
    steps = Subset(Steps(stage, seed), range(first, stage.steps))
    return DataLoader(steps, batch_size=None, num_workers=workers)


def _some(owners: Any, rng: np.random.Generator, count: int) -> Any:
    """`count` of the 576 places in order, half of them from objects where there are so many."""
    flat = owners.reshape(-1)
    objects = rng.permutation(np.flatnonzero(flat >= 0))[: count // 2]
    rest = rng.permutation(np.setdiff1d(np.arange(TOKENS), objects))[: count - len(objects)]
    return np.sort(np.concatenate([objects, rest]))
