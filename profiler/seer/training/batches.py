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
    Thing,
    four_pictures,
    picture,
)
from ..questions import CLEAR, POPE, SUFFIX, TRAIN, Question, attributes, halves, pope, where, which

GRID = SIDE // PATCH
LONGEST, LONGEST_WITH_SUFFIX = 17, 29  # tokens of a question and the answer
PAD = VOCABULARY.index("<pad>")
YES, NO, END = (VOCABULARY.index(word) for word in ("Yes", "No", "</s>"))
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


NAMED: dict[str, frozenset[int]] = {
    category: frozenset(ids(*words).tolist())
    for category, words in {
        **dict.fromkeys(POPE, SHAPES),
        **dict.fromkeys(("where", "halves"), ("top", "bottom", "left", "right")),
        "which": (*COLOURS, *SHAPES),
        "attributes": (*SIZES, *TEXTURES),
    }.items()
}
"""The last words of a question, two at most, that follow from the picture and what stands before
them, where the answer is yes: they are predicted as in a caption."""


SHAPE_IDS = frozenset(ids(*SHAPES).tolist())
LOOKS: dict[str, tuple[Tensor, float]] = {
    "row": (ids("top", "bottom"), 1.0),
    "column": (ids("left", "right"), 1.0),
    "size": (ids(*SIZES), 0.5),
    "texture": (ids(*TEXTURES), 0.5),
}
"""Words that an object's noun in a question is to look like, one of each group, and its weight."""


@dataclass(frozen=True)
class Mix:
    """How many questions of each kind are asked of a picture: in each of POPE's categories, with
    yes and as many with no; of the other kinds in all. quadrants: where in a picture of four.
    most: of all kinds together."""

    random: int = 1
    popular: int = 1
    adversarial: int = 2
    halves: int = 0
    where: int = 4
    attributes: int = 4
    which: int = 8
    quadrants: int = 0
    most: int = 16

    @property
    def pope(self) -> dict[str, int]:
        return {category: getattr(self, category) for category in POPE}


@dataclass(frozen=True)
class PictureBatch:
    """pixels: [B, 3, H, W], -1 to 1. labels: of each group, the word's index for each patch
    [B, N]. kinds: [B, 48], 1 for those that are there."""

    pixels: Tensor
    labels: dict[str, Tensor]
    kinds: Tensor

    def to(self, device: torch.device) -> PictureBatch:
        labels = {name: own.to(device) for name, own in self.labels.items()}
        return PictureBatch(self.pixels.to(device), labels, self.kinds.to(device))


@dataclass(frozen=True)
class QuestionBatch:
    """tokens: [B, Q, L], ids of questions and answers. wanted: [B, Q, 4], the tokens that stand
    before the answer, before the end, and before up to two words of NAMED. targets: [B, Q, 4], the
    ids that follow them; NONE where there is none, and for what is said of no object. nouns:
    [B, Q, 2], the tokens for the shapes of up to two objects. looks: [B, Q, 2, 4], what they look
    like, indices into the words of LOOKS; NONE where the picture does not tell."""

    tokens: Tensor
    wanted: Tensor
    targets: Tensor
    nouns: Tensor
    looks: Tensor

    def to(self, device: torch.device) -> QuestionBatch:
        return QuestionBatch(
            *(given.to(device) for given in (self.tokens, self.wanted, self.targets)),
            *(given.to(device) for given in (self.nouns, self.looks)),
        )


def pictures_of(stream: int, step: int, count: int, of_four: int = 8) -> list[Drawing]:
    """Pictures of a step of training. stream: another for each stage. of_four: one picture in so
    many is four in one."""
    seeds = [(TRAIN, stream, step * count + index) for index in range(count)]
    return [
        four_pictures(seed) if index % of_four == of_four - 1 else picture(seed)
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


def questions_about(pictures: list[Drawing], rng: np.random.Generator, mix: Mix) -> list[Question]:
    """POPE's categories about all, the other kinds about those that they fit."""
    asked = pope(pictures, rng, mix.pope)
    for index, shown in enumerate(pictures):
        if any(thing.panel for thing in shown.things):
            kinds = [(which, mix.which), (where, mix.quadrants)]
        else:
            kinds = [(where, mix.where), (attributes, mix.attributes), (halves, mix.halves)]
        for kind, count in kinds:
            if count:
                asked += kind(index, shown, rng, count)
    return asked


def asked(
    questions: list[Question], tokenizer: Any, pictures: list[Drawing], *, suffix: bool, most: int
) -> QuestionBatch:
    """The questions as tensors. suffix: whether POPE's stands behind each. most: of a picture."""
    longest = LONGEST_WITH_SUFFIX if suffix else LONGEST
    shape = len(pictures), most
    tokens = torch.full((*shape, longest), PAD)
    wanted = torch.zeros((*shape, 4), dtype=torch.long)
    targets = torch.full((*shape, 4), NONE)
    nouns = torch.zeros((*shape, 2), dtype=torch.long)
    looks = torch.full((*shape, 2, len(LOOKS)), NONE)
    count = [0] * len(pictures)
    for question in questions:
        at = question.picture, count[question.picture]
        if at[1] == most:
            continue
        end = f"\n{SUFFIX}" if suffix else ""
        text = f"{question.text}{end} ASSISTANT:"
        row = [*tokenizer(text, add_special_tokens=False).input_ids, YES if question.yes else NO]
        tokens[at][: len(row)] = torch.tensor(row)
        target = [row[-1], END, NONE, NONE]
        places = [len(row) - 2, len(row) - 1, 0, 0]
        named = [i for i, token in enumerate(row) if token in NAMED[question.category]][-2:]
        for slot, place in enumerate(named if question.yes else []):
            target[2 + slot], places[2 + slot] = row[place], place - 1
        wanted[at], targets[at] = torch.tensor(places), torch.tensor(target)
        known = {thing.kind: thing for thing in pictures[at[0]].things}
        for slot, place in enumerate(i for i, token in enumerate(row) if token in SHAPE_IDS):
            nouns[at][slot] = place
            thing = known.get((VOCABULARY[row[place - 1]], VOCABULARY[row[place]]))
            if thing is not None:
                looks[at][slot] = torch.tensor(_look(thing))
        count[question.picture] += 1
    return QuestionBatch(tokens, wanted, targets, nouns, looks)


def _look(thing: Thing) -> list[int]:
    """Indices into the words of LOOKS."""
    row, column = (
        NONE if abs(place - SIDE / 2) <= CLEAR else int(place > SIDE / 2)
        for place in (thing.y, thing.x)
    )
    return [row, column, SIZES.index(thing.size), TEXTURES.index(thing.texture)]
