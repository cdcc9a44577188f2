"""The selections that methods share."""

from __future__ import annotations

import torch

from tpprof import methods
from tpprof.methods import Part, Request, Segment, parts

TILES = (Segment(2, 2), Segment(2, 2), Segment(2, 2), Segment(2, 5, newline=True))


def test_rectangles_of_one_size_and_share_are_one_part() -> None:
    request = Request(32, 64, 5, 5, TILES)
    assert parts(request, 11) == [Part(0, 3, 4, 2), Part(12, 1, 10, 5)]
    assert parts(request, 8) == [Part(0, 1, 4, 2), Part(4, 2, 4, 1), Part(12, 1, 10, 4)]
    assert parts(request, 1) == [Part(12, 1, 10, 1)]
    assert sum(part.alike * part.share for part in parts(request, 21)) == 21


def test_a_part_knows_its_rows_and_their_places() -> None:
    part, values = Part(4, 2, 3, 2), torch.arange(24).view(2, 12)
    rows = part.rows(values)
    assert rows.tolist() == [[4, 5, 6], [7, 8, 9], [16, 17, 18], [19, 20, 21]]
    assert part.rows(values[..., None]).shape == (4, 3, 1)
    chosen = torch.tensor([[0, 2], [1, 2], [2, 0], [0, 1]])
    places = part.places(chosen)
    assert values.gather(1, places).tolist() == [[4, 6, 8, 9], [18, 16, 19, 20]]


def test_nothing_is_chosen_where_nothing_is_asked_for() -> None:
    assert methods.greedy(torch.rand(2, 5), 0, lambda step, place: torch.rand(2, 5)).shape == (2, 0)
