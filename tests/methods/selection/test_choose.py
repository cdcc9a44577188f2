"""The selections that methods share."""

from __future__ import annotations

import pytest
import torch

from tpprof import methods
from tpprof.methods import (
    Part,
    Request,
    Segment,
    parts,
    round_shares,
    spread_out,
    spread_out_in_rows,
    squared_distances,
    top_in_groups,
    top_in_rows,
)
from tpprof.methods.vidcom2 import _best

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


def test_rows_are_spread_out_each_by_itself() -> None:
    torch.manual_seed(0)
    tokens, worth = torch.randn(2, 3, 6, 8), torch.rand(2, 3, 6)
    for count in (0, 1, 4):
        found = spread_out_in_rows(tokens, worth, count).view(2, 3, count)
        for row in range(3):
            distance = (1 - methods.cosines(tokens[:, row])) * worth[:, row, None]
            assert torch.equal(found[:, row], spread_out(distance, count) + 6 * row)


@pytest.mark.parametrize("kinds", [3, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_rows_are_groups_that_lie_one_behind_another(seed: int, kinds: int) -> None:
    """Also where many scores are equal, and where rows have fewer than is asked of them."""
    torch.manual_seed(seed)
    frames, size = 5, 7
    scores = torch.randint(kinds, (2, frames, size)) / kinds - 1.0
    quota = torch.randint(0, 10, (2, frames))
    frame = (torch.arange(frames * size) // size).expand(2, -1)
    for count in (1, 12, 30):
        wanted = top_in_groups(scores.flatten(1), frame, quota, count).index
        assert torch.equal(top_in_rows(scores, quota, count), wanted)


@pytest.mark.parametrize("kinds", [3, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_shares_are_rounded_by_largest_remainder_as_tokens_are_chosen(
    seed: int, kinds: int
) -> None:
    """Also where one frame cannot hold its share, and where remainders are equal."""
    torch.manual_seed(seed)
    frames, size = 5, 7
    scores = torch.randint(1, kinds + 1, (1, frames, size)) / -kinds
    frame = (torch.arange(frames * size) // size)[None]
    for count, hot in ((6, 0.5), (13, 0.3), (21, 0.55)):
        even = torch.tensor([hot, *[(1 - hot) / 4] * 4])
        for part in (even.roll(seed), torch.rand(frames).softmax(0)):
            shares = part[None] * count
            quota = round_shares(shares.clamp_max(size), count)
            wanted = top_in_groups(scores.flatten(1), frame, quota, count).index
            assert torch.equal(_best(scores, shares, count), wanted)


def test_a_point_lies_at_no_distance_from_itself() -> None:
    states = torch.rand(2, 4, 6).repeat(1, 3, 1) * 100
    squared = squared_distances(states)
    assert squared.diagonal(dim1=1, dim2=2).count_nonzero() == 0
    torch.testing.assert_close(squared, torch.cdist(states, states) ** 2, atol=1e-1, rtol=1e-3)
