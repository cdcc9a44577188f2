"""Position bias, and what a token covers of the picture."""

from __future__ import annotations

import base64
import random

import pytest
from page_records import full
from PIL import Image

from tpprof.reports.analysis.position_bias import (
    attention,
    by_chance,
    divergence,
    histogram,
    multiples,
    offset,
)
from tpprof.reports.figures.overlay import open_picture, overlay
from tpprof.reports.record.base import RecordError
from tpprof.reports.record.kept import Kept, pruned


def kept(tokens: list[int], visual: int = 320, **more: object) -> Kept:
    return Kept(layer=1, visual=visual, tokens=tokens, **more)  # type: ignore[arg-type]


def test_an_even_choice_has_no_bias() -> None:
    even = [kept(list(range(320)))]
    assert offset(even) == pytest.approx(0)
    assert divergence(even) == pytest.approx(0)
    assert histogram(even) == pytest.approx([1 / 32] * 32)


def test_the_bias_has_a_sign_and_an_end() -> None:
    assert offset([kept([319])]) == pytest.approx(1)
    assert offset([kept([0])]) == pytest.approx(-1)
    last = divergence([kept([319])], bins=2)
    # p = (0, 1), q = (1/2, 1/2): half of log2(4/3) and of (1/2 log2 2 + 1/2 log2 (2/3))
    assert last == pytest.approx(0.5 * (0.41503749928) + 0.5 * (0.5 - 0.5 * 0.58496250072))


def test_pictures_are_pooled() -> None:
    assert offset([kept([0]), kept([639], visual=640)]) == pytest.approx(0)


def test_nothing_kept_is_unknown_and_not_even() -> None:
    assert offset([kept([], merged=3)]) is None
    assert divergence([kept([], merged=3)]) is None
    assert by_chance([kept([], merged=3)]) is None
    assert attention([kept([1])]) is None


def test_tokens_that_had_gone_are_no_candidates_and_not_zero() -> None:
    read = kept([0], visual=6, scores=[3.0, None, 0.0, 1.0, None, None])
    assert attention([read], bins=3) == pytest.approx([9 / 4, 3 / 8, None])


def test_few_tokens_have_as_many_parts() -> None:
    assert histogram([kept([0, 4], visual=5)]) == [0.5, 0, 0, 0, 0.5]
    assert multiples([kept([0, 4], visual=5)]) == pytest.approx([2.5, 0, 0, 0, 2.5])
    assert divergence([kept(list(range(5)), visual=5)]) == pytest.approx(0)


@pytest.mark.parametrize(
    ("visual", "number", "pictures"), [(576, 64, 1), (100, 10, 3), (50, 50, 1)]
)
def test_chance_is_what_random_choices_come_to(visual: int, number: int, pictures: int) -> None:
    draw, found = random.Random(0), []
    for _ in range(400):
        lots = [draw.sample(range(visual), number) for _ in range(pictures)]
        found.append(divergence([kept(sorted(lot), visual=visual) for lot in lots]) or 0.0)
    expected = by_chance([kept(list(range(number)), visual=visual)] * pictures)
    assert expected == pytest.approx(sum(found) / len(found), rel=0.03, abs=1e-9)


def test_what_goes_lies_under_a_veil() -> None:
    run = full()
    assert run.picture is not None
    one = kept(list(range(24)), visual=576)  # the first row of 24
    shown, base = overlay(run.picture, "picture", one), open_picture(run.picture)
    assert shown.crop((0, 0, 48, 2)).tobytes() == base.crop((0, 0, 48, 2)).tobytes()
    assert shown.crop((0, 2, 48, 48)).tobytes() != base.crop((0, 2, 48, 48)).tobytes()
    none = overlay(run.picture, "picture", kept([], visual=576))
    assert isinstance(none, Image.Image)
    assert none.convert("L").getextrema()[0] > 190


def test_a_picture_that_is_cut_off_is_refused() -> None:
    run = full()
    assert run.picture is not None
    run.picture.jpeg = base64.b64encode(b"\xff\xd8 and no more").decode()
    with pytest.raises(RecordError, match="picture cannot be read"):
        open_picture(run.picture)


def test_only_prunes_are_shown() -> None:
    assert [entry.layer for entry in pruned(full().cells[1].kept)] == [1]
