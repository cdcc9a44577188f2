"""Drawn pictures follow from their seed and hold what they say."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from tpprof.profiler.seer.pictures import (
    COLOURS,
    FREQUENCIES,
    KINDS,
    PATCH,
    POPULAR,
    RANKED,
    SIDE,
    Drawing,
    four_pictures,
    picture,
)
from tpprof.profiler.seer.questions import TEST, TRAIN, VALIDATION


def drawn() -> list[Drawing]:
    make = (picture, four_pictures)
    return [make[index % 2]((TEST, 9, index)) for index in range(20)]


def test_a_seed_gives_one_picture() -> None:
    for make in (picture, four_pictures):
        once, again, other = make((TEST, 9, 1)), make((TEST, 9, 1)), make((TEST, 9, 2))
        assert once.things == again.things
        assert np.array_equal(once.pixels, again.pixels)
        assert np.array_equal(once.owners, again.owners)
        assert not np.array_equal(once.pixels, other.pixels)


def test_the_splits_share_no_picture() -> None:
    found = [
        picture((split, stream, index)).pixels.tobytes()
        for split in (TRAIN, VALIDATION, TEST)
        for stream in (0, 10)
        for index in range(10)
    ]
    assert len(set(found)) == len(found)


def test_no_picture_holds_a_kind_twice() -> None:
    for shown in drawn():
        assert len(shown.kinds) == len(shown.things)


def test_objects_lie_apart_and_inside() -> None:
    for shown in drawn():
        for index, thing in enumerate(shown.things):
            assert thing.radius < min(thing.x, thing.y, SIDE - thing.x, SIDE - thing.y)
            for other in shown.things[:index]:
                apart = np.hypot(thing.x - other.x, thing.y - other.y)
                assert apart > thing.radius + other.radius


def test_patches_of_an_object_have_its_colour() -> None:
    for shown in drawn():
        for index, thing in enumerate(shown.things):
            if thing.texture != "plain" or thing.size != "large":
                continue
            whole = np.kron(shown.owners == index, np.ones((PATCH, PATCH))) > 0
            middle = np.median(shown.pixels[whole], axis=0)
            assert np.abs(middle - COLOURS[thing.colour]).max() < 40


@pytest.mark.parametrize("make", [picture, four_pictures])
def test_every_object_owns_patches_near_it(make: Callable[[Sequence[int]], Drawing]) -> None:
    for index in range(10):
        shown = make((TEST, 9, index))
        for place, thing in enumerate(shown.things):
            rows, columns = np.nonzero(shown.owners == place)
            assert len(rows) >= 4
            away = np.hypot((columns + 0.5) * PATCH - thing.x, (rows + 0.5) * PATCH - thing.y)
            assert away.max() < thing.radius + PATCH


def test_four_pictures_lie_in_quarters() -> None:
    for index in range(5):
        for thing in four_pictures((TEST, 9, index)).things:
            assert thing.panel == (thing.y > SIDE / 2) * 2 + (thing.x > SIDE / 2)


def test_popular_kinds_are_the_most_frequent() -> None:
    drawn = dict(zip(KINDS, FREQUENCIES, strict=True))
    assert sorted(drawn.values(), reverse=True) == [drawn[kind] for kind in RANKED]
    assert min(drawn[kind] for kind in POPULAR) > max(drawn[k] for k in set(KINDS) - POPULAR)
