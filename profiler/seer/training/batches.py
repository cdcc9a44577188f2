"""What one step of training is given. All of it follows from the step's own seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..model import VOCABULARY
from ..pictures import (
    COLOURS,
    KINDS,
    PATCH,
    SHAPES,
    SIDE,
    SIZES,
    TEXTURES,
    Drawing,
    four_pictures,
    picture,
)
from ..questions import POPE, SUFFIX, TRAIN, Question, attributes, pope, where, which

GRID = SIDE // PATCH
OF_FOUR = 8  # one picture in so many is four in one
EACH = {"random": 2, "popular": 1, "adversarial": 3}
MOST = 14  # questions about a picture
LONGEST, LONGEST_WITH_SUFFIX = 17, 29  # tokens of a question and the answer
PAD = VOCABULARY.index("<pad>")
YES, NO, END = (VOCABULARY.index(word) for word in ("Yes", "No", "</s>"))
SHAPE_IDS = frozenset(VOCABULARY.index(shape) for shape in SHAPES)
NONE = -100  # what torch's cross entropy passes over


def ids(*words: str) -> Tensor:
    return torch.tensor([VOCABULARY.index(word) for word in words])


GROUPS: dict[str, tuple[Tensor, float]] = {
    "colour": (ids(*COLOURS, "background"), 1.0),
    "shape": (ids(*SHAPES, "background"), 2.0),
    "size": (ids(*SIZES, "background"), 0.5),
    "texture": (ids(*TEXTURES, "background"), 0.5),
    "row": (ids("top", "bottom"), 0.2),
    "column": (ids("left", "right"), 0.2),
}
"""Words that a patch is to look like, one of each group, and the weight of the group."""


@dataclass(frozen=True)
class PictureBatch:
    """pixels: [B, 3, H, W], -1 to 1. labels: of each group, the word's index for each patch
    [B, N]. kinds: [B, 48], 1 for those that are there."""

    pixels: Tensor
    labels: dict[str, Tensor]
    kinds: Tensor


@dataclass(frozen=True)
class QuestionBatch:
    """tokens: [B, Q, L], ids of questions and answers. wanted: [B, Q, 3], the tokens that stand
    before the answer, before the end, and before the first shape that is named. targets: [B, Q, 3],
    the ids that follow them; NONE where there is no question, and for a shape that is not there."""

    tokens: Tensor
    wanted: Tensor
    targets: Tensor


def pictures_of(stream: int, step: int, count: int) -> list[Drawing]:
    """Pictures of a step of training. stream: another for each stage."""
    seeds = [(TRAIN, stream, step * count + index) for index in range(count)]
    return [
        four_pictures(seed) if index % OF_FOUR == OF_FOUR - 1 else picture(seed)
        for index, seed in enumerate(seeds)
    ]


def seen(pictures: list[Drawing]) -> PictureBatch:
    pixels = np.stack([shown.pixels for shown in pictures])
    labels = [_labels(shown) for shown in pictures]
    kinds = [[float(kind in shown.kinds) for kind in KINDS] for shown in pictures]
    return PictureBatch(
        torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(127.5).sub_(1).contiguous(),
        {name: torch.tensor(np.stack([own[name] for own in labels])).flatten(1) for name in GROUPS},
        torch.tensor(kinds),
    )


def cropped(given: PictureBatch, corner: tuple[int, int], side: int) -> PictureBatch:
    """`side` x `side` patches of each picture, from row and column `corner`."""
    rows, columns = (slice(start, start + side) for start in corner)
    pixels = given.pixels.view(-1, 3, GRID, PATCH, GRID, PATCH)
    labels = {
        name: own.view(-1, GRID, GRID)[:, rows, columns].flatten(1)
        for name, own in given.labels.items()
    }
    cut = pixels[:, :, rows, :, columns]
    return PictureBatch(cut.flatten(4, 5).flatten(2, 3).contiguous(), labels, given.kinds)


def _labels(shown: Drawing) -> dict[str, NDArray[np.int64]]:
    """Indices into the words of each group: [24, 24]."""

    def of(words: Any, value: str) -> NDArray[np.int64]:
        known = list(words)
        each = [known.index(getattr(thing, value)) for thing in shown.things]
        return np.array([*each, len(known)])[shown.owners]  # the last is the background's

    rows, columns = np.divmod(np.arange(GRID * GRID).reshape(GRID, GRID), GRID)
    return {
        "colour": of(COLOURS, "colour"),
        "shape": of(SHAPES, "shape"),
        "size": of(SIZES, "size"),
        "texture": of(TEXTURES, "texture"),
        "row": rows * 2 // GRID,
        "column": columns * 2 // GRID,
    }


def questions_about(pictures: list[Drawing], rng: np.random.Generator) -> list[Question]:
    """POPE's categories about all, the other kinds about those that they fit: at most MOST each."""
    asked = pope(pictures, rng, EACH)
    for index, shown in enumerate(pictures):
        if any(thing.panel for thing in shown.things):
            asked += which(index, shown, rng, 4)
        else:
            asked += where(index, shown, rng, 2) + attributes(index, shown, rng, 2)
    return asked


def asked(
    questions: list[Question], tokenizer: Any, pictures: int, *, suffix: bool, most: int = MOST
) -> QuestionBatch:
    """The questions as tensors. suffix: whether POPE's stands behind each."""
    longest = LONGEST_WITH_SUFFIX if suffix else LONGEST
    tokens = torch.full((pictures, most, longest), PAD)
    wanted = torch.zeros((pictures, most, 3), dtype=torch.long)
    targets = torch.full((pictures, most, 3), NONE)
    count = [0] * pictures
    for question in questions:
        index = count[question.picture]
        if index == most:
            continue
        end = f"\n{SUFFIX}" if suffix else ""
        text = f"{question.text}{end} ASSISTANT:"
        row = [*tokenizer(text, add_special_tokens=False).input_ids, YES if question.yes else NO]
        tokens[question.picture, index, : len(row)] = torch.tensor(row)
        named = next(place for place, token in enumerate(row) if token in SHAPE_IDS)
        there = question.yes or question.category not in POPE
        wanted[question.picture, index] = torch.tensor([len(row) - 2, len(row) - 1, named - 1])
        shape = row[named] if there else NONE
        targets[question.picture, index] = torch.tensor([row[-1], END, shape])
        count[question.picture] += 1
    return QuestionBatch(tokens, wanted, targets)
