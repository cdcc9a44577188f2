"""Questions about drawn pictures, each answered with yes or no.

POPE's three categories (https://arxiv.org/abs/2305.10355), and three kinds more that the paper of
token pruning asks: where an object is, which of several pictures holds it, and what it looks like.
In each, as many answers are yes as no, and the words of a question tell nothing of its answer: in
POPE's categories whatever is asked of a picture that holds it is asked, word for word, of one that
does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .pictures import (
    POPULAR,
    SIDE,
    SIZES,
    TEXTURES,
    Drawing,
    Kind,
    Thing,
    four_pictures,
    picture,
)

POPE = ("random", "popular", "adversarial")
MORE = ("where", "which", "attributes")
QUADRANTS = ("top left", "top right", "bottom left", "bottom right")
HALVES = (("top", "bottom"), ("left", "right"))
CLEAR = 6  # pixels that the centre of an object asked for is away from the lines between quadrants
SUFFIX = "Answer the question using a single word or phrase."

K = TypeVar("K", tuple[str, str], str)

TRAIN, VALIDATION, TEST = 1, 2, 3
"""First number of the seeds of each: they share none."""


@dataclass(frozen=True)
class Question:
    """text: without POPE's suffix. picture: index of the one that it is asked of."""

    picture: int
    category: str
    text: str
    yes: bool


def sample(split: int, count: int, first: int = 0) -> tuple[list[Drawing], list[Question]]:
    """`count` pictures and what POPE asks of them: up to 4 questions a picture in each category.

    split: TRAIN, VALIDATION or TEST. first: index of the first picture, for another sample.
    """
    pictures = [picture((split, 0, index)) for index in range(first, first + count)]
    rng = np.random.default_rng([split, 2, first, count])
    return pictures, pope(pictures, rng, dict.fromkeys(POPE, 2))


def more(split: int, category: str, count: int) -> tuple[list[Drawing], list[Question]]:
    """`count` pictures and questions of one of MORE: up to 4 a picture."""
    make, stream = (four_pictures, 1) if category == "which" else (picture, 0)
    pictures = [make((split, stream, index)) for index in range(count)]
    rng = np.random.default_rng([split, 3 + MORE.index(category), count])
    ask = {"where": where, "which": which, "attributes": attributes}[category]
    return pictures, [question for i, p in enumerate(pictures) for question in ask(i, p, rng, 4)]


def pope(
    pictures: Sequence[Drawing], rng: np.random.Generator, each: dict[str, int]
) -> list[Question]:
    """Questions in POPE's categories, `each` of them with yes and as many with no a picture, fewer
    where no picture fits."""
    asked = [
        question
        for category, limit in each.items()
        for question in _category(pictures, rng, category, limit)
    ]
    return sorted(asked, key=lambda question: question.picture)


def _category(
    pictures: Sequence[Drawing], rng: np.random.Generator, category: str, limit: int
) -> list[Question]:
    found: list[Question] = []
    matched = pairs(
        [shown.kinds for shown in pictures],
        rng,
        limit,
        lambda kind, other: _absent(category, kind, pictures[other]),
    )
    for holder, other, kind in matched:
        text = f"Is there {_noun(*kind)} in the image?"
        found += [Question(holder, category, text, True), Question(other, category, text, False)]
    return found


def pairs(
    kinds: Sequence[frozenset[K]],
    rng: np.random.Generator,
    limit: int,
    fits: Callable[[K, int], bool],
) -> list[tuple[int, int, K]]:
    """Pairs of pictures that one question is asked of: one that holds the kind, and one that lacks
    it. `limit` of either a picture, fewer where none is left that fits.

    kinds: of things in each picture. fits: whether a kind can be asked of a picture that lacks it.
    """
    present = [(i, kind) for i, own in enumerate(kinds) for kind in sorted(own)]
    held, missed = np.zeros(len(kinds), int), np.zeros(len(kinds), int)
    taken: set[tuple[int, K]] = set()
    found: list[tuple[int, int, K]] = []
    for position in rng.permutation(len(present)):
        holder, kind = present[position]
        if held[holder] >= limit:
            continue
        others = [
            int(i)
            for i in rng.permutation(len(kinds))
            if missed[i] < limit and (i, kind) not in taken and fits(kind, int(i))
        ]
        if not others:
            continue
        other = min(others, key=lambda i: missed[i])
        taken.add((other, kind))
        held[holder] += 1
        missed[other] += 1
        found.append((holder, other, kind))
    return found


def _absent(category: str, kind: Kind, other: Drawing) -> bool:
    """Whether a picture lacks the kind in the way of the category: any one, one of those that most
    pictures hold, or one whose colour and shape are both there on different objects."""
    if kind in other.kinds:
        return False
    if category == "popular":
        return kind in POPULAR
    if category == "adversarial":
        colours, shapes = zip(*other.kinds, strict=True)
        return kind[0] in colours and kind[1] in shapes
    return True


def where(index: int, shown: Drawing, rng: np.random.Generator, count: int) -> list[Question]:
    """In which quadrant an object lies; where the answer is no it lies in another one."""

    def ask(thing: Thing, yes: bool) -> str:
        place = _quadrant(thing)
        said = place if yes else _other(QUADRANTS, place, rng)
        return f"Is the {' '.join(thing.kind)} in the {said} of the image?"

    return _asked(index, "where", _clear(shown), rng, count, ask)


def halves(index: int, shown: Drawing, rng: np.random.Generator, count: int) -> list[Question]:
    """In which half an object lies, upper or lower, left or right. Asked in training alone."""

    def ask(thing: Thing, yes: bool) -> str:
        axis = rng.integers(2)
        said = _quadrant(thing).split()[axis]
        if not yes:
            said = _other(HALVES[axis], said, rng)
        return f"Is the {' '.join(thing.kind)} in the {said} of the image?"

    return _asked(index, "halves", _clear(shown), rng, count, ask)


def which(index: int, shown: Drawing, rng: np.random.Generator, count: int) -> list[Question]:
    """Whether the one of four pictures that holds an object holds another one too; where the answer
    is no another of the four does."""

    def ask(thing: Thing, yes: bool) -> str | None:
        others = [
            other
            for other in shown.things
            if other is not thing and (other.panel == thing.panel) == yes
        ]
        if not others:
            return None
        target = others[rng.integers(len(others))]
        return f"For the image with {_noun(*thing.kind)}, is there {_noun(*target.kind)}?"

    return _asked(index, "which", list(shown.things), rng, count, ask)


def attributes(index: int, shown: Drawing, rng: np.random.Generator, count: int) -> list[Question]:
    """Size and texture of an object; where the answer is no one of the two is another."""

    def ask(thing: Thing, yes: bool) -> str | None:
        size, texture = thing.size, thing.texture
        if not yes and rng.random() < 0.5:
            size = _other(SIZES, size, rng)
        elif not yes:
            texture = _other(TEXTURES, texture, rng)
        return f"Is the {' '.join(thing.kind)} {size} and {texture}?"

    return _asked(index, "attributes", list(shown.things), rng, count, ask)


def _asked(
    index: int,
    category: str,
    things: list[Thing],
    rng: np.random.Generator,
    count: int,
    ask: Callable[[Thing, bool], str | None],
) -> list[Question]:
    """As many with yes as with no, `count` at most, no text twice."""
    texts: dict[bool, list[str]] = {}
    for yes in (True, False):
        order = rng.permutation(len(things))[: count // 2]
        found = (ask(things[i], yes) for i in order)
        texts[yes] = [text for text in found if text is not None]
    pairs = min(len(texts[True]), len(texts[False]))
    return [Question(index, category, text, yes) for yes in texts for text in texts[yes][:pairs]]


def _clear(shown: Drawing) -> list[Thing]:
    """Objects of which it is clear in which quadrant they lie."""
    return [
        thing
        for thing in shown.things
        if min(abs(thing.x - SIDE / 2), abs(thing.y - SIDE / 2)) > CLEAR
    ]


def _quadrant(thing: Thing) -> str:
    vertical = "top" if thing.y < SIDE / 2 else "bottom"
    return f"{vertical} {'left' if thing.x < SIDE / 2 else 'right'}"


def _other(known: Sequence[str], one: str, rng: np.random.Generator) -> str:
    rest = [value for value in known if value != one]
    return rest[rng.integers(len(rest))]


def _noun(colour: str, shape: str) -> str:
    return f"{'an' if colour == 'orange' else 'a'} {colour} {shape}"
