"""Questions about composed pictures: POPE's three categories, where things lie, what is there.

In POPE's categories whatever is asked of a picture that holds it is asked, word for word, of one
that does not: the words of a question tell nothing of its answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...seer.questions import POPE, QUADRANTS, SUFFIX, pairs
from ..build import SIDE
from .nouns import GROUP, with_article
from .scenes import POPULAR, Placed, Scene, scene

CLEAR = 16  # pixels that a thing asked for is away from the lines between quadrants
LIST = "What is in the image, from left to right?"


@dataclass(frozen=True)
class SceneQuestion:
    """text: with POPE's suffix, where it has one. answer: what is to be said."""

    picture: int
    category: str
    text: str
    answer: str


def sample(split: int, count: int) -> tuple[list[Scene], list[SceneQuestion]]:
    """`count` scenes and what POPE asks of them: up to 4 questions a picture in each category."""
    scenes = [scene((split, index)) for index in range(count)]
    rng = np.random.default_rng([split, 2**20, count])
    return scenes, pope(scenes, rng, 2)


def pope(
    scenes: Sequence[Scene], rng: np.random.Generator, limit: int, *, suffix: bool = True
) -> list[SceneQuestion]:
    """In each category `limit` questions with yes and as many with no a picture, fewer where no
    picture fits."""
    end = f"\n{SUFFIX}" if suffix else ""
    held = [shown.nouns for shown in scenes]
    groups = [{GROUP[noun] for noun in own} for own in held]

    found = []
    for category in POPE:

        def fits(noun: str, other: int, category: str = category) -> bool:
            """Any noun that is not there; one of those that most pictures hold; or one of the group
            of another that is there."""
            if noun in held[other]:
                return False
            if category == "popular":
                return noun in POPULAR
            return category == "random" or GROUP[noun] in groups[other]

        for holder, other, noun in pairs(held, rng, limit, fits):
            text = f"Is there {with_article(noun)} in the image?{end}"
            found.append(SceneQuestion(holder, category, text, "Yes"))
            found.append(SceneQuestion(other, category, text, "No"))
    return sorted(found, key=lambda question: question.picture)


def where(
    scenes: Sequence[Scene], rng: np.random.Generator, *, suffix: bool
) -> list[SceneQuestion]:
    """In which quadrant a thing lies: a yes and a no a picture, the no with another quadrant."""
    end = f"\n{SUFFIX}" if suffix else ""
    found = []
    for index, shown in enumerate(scenes):
        clear = [t for t in shown.things if min(abs(t.x - SIDE / 2), abs(t.y - SIDE / 2)) > CLEAR]
        for answer in ("Yes", "No") if clear else ():
            thing = clear[rng.integers(len(clear))]
            place = _quadrant(thing)
            if answer == "No":
                place = str(rng.choice([other for other in QUADRANTS if other != place]))
            text = f"Is the {thing.noun} in the {place} of the image?{end}"
            found.append(SceneQuestion(index, "where", text, answer))
    return found


def listed(scenes: Sequence[Scene]) -> list[SceneQuestion]:
    """All that is there, from left to right."""
    found = []
    for index, shown in enumerate(scenes):
        names = [with_article(t.noun) for t in sorted(shown.things, key=lambda t: t.x)]
        names[0] = names[0].capitalize() if names[0].islower() else "A" + names[0][1:]
        answer = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
        found.append(SceneQuestion(index, "list", LIST, answer))
    return found


def _quadrant(thing: Placed) -> str:
    vertical = "top" if thing.y < SIDE / 2 else "bottom"
    return f"{vertical} {'left' if thing.x < SIDE / 2 else 'right'}"
