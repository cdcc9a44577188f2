"""GlobalCom2's crops and their counts, worked out again crop by crop from the released rule."""

from __future__ import annotations

import math

import pytest
import torch
from micro_models import SHAPES, load
from torch import Tensor

import tpprof
from tpprof.methods import BudgetError, parse
from tpprof.methods.globalcom2 import GlobalCom2
from tpprof.profiler.models.geometry import request
from tpprof.tests.methods.reference import Truth, observe, run, tiles_at

SIDE, LAST = 6, 3  # patches along a tile, and the tower's last layer
CASES = [  # layout, picture, rows and columns of crops, budget
    ("flat", (168, 168), (2, 2), 45),
    ("flat", (84, 168), (1, 2), 50),
    ("anyres", (168, 168), (2, 2), 60),
    ("anyres", (168, 140), (2, 2), 60),
    ("anyres", (168, 84), (2, 1), 40),
]


def ratios(thumbnail: Tensor, rows: int, columns: int) -> list[float]:
    """Of each crop over the mean one: by what the thumbnail shows in its place."""
    sums = [0.0] * (rows * columns)
    for place, score in enumerate(thumbnail.double().tolist()):
        row, column = divmod(place, SIDE)
        row = min(row // (SIDE // rows), rows - 1)
        column = min(column // (SIDE // columns), columns - 1)
        sums[row * columns + column] += score
    exponents = [math.exp((total - max(sums)) / 10) for total in sums]
    shares = [exponent / sum(exponents) for exponent in exponents]
    return [1 + share - 1 / len(shares) for share in shares]


def whole(shares: list[float], total: int) -> list[int]:
    counts = [int(share) for share in shares]
    order = sorted(range(len(shares)), key=lambda crop: counts[crop] - shares[crop])
    for crop in order[: total - sum(counts)]:
        counts[crop] += 1
    return counts


def best(scores: Tensor, count: int) -> list[int]:
    places: list[int] = scores.topk(count).indices.tolist()
    return places


def kept(truth: Truth, grid: tuple[int, int], budget: int) -> list[int]:
    rows, columns = grid
    scores = tiles_at(truth, LAST).scores
    order = truth.inputs.order
    sources = list(range(scores.numel())) if order is None else order.tolist()
    newlines = [place for place, source in enumerate(sources) if source == scores.numel()]
    place_of = {source: place for place, source in enumerate(sources)}
    # The rectangle of the joined crops that is no padding, by what is laid out.
    lines, found = [], {}
    for source in sources[SIDE**2 :]:
        if source < scores.numel():
            crop, patch = divmod(source - SIDE**2, SIDE**2)
            row = crop // columns * SIDE + patch // SIDE
            column = crop % columns * SIDE + patch % SIDE
            found[row, column] = (crop, patch, source)
            lines.append((row, column))
    top, left = min(row for row, _ in lines), min(column for _, column in lines)
    height = max(row for row, _ in lines) - top + 1
    width = max(column for _, column in lines) - left + 1
    large = torch.nn.functional.interpolate(
        scores[0].view(1, 1, SIDE, SIDE), size=(height, width), mode="bilinear"
    )[0, 0]
    in_thumbnail = int(SIDE**2 * (budget - len(newlines)) / (SIDE**2 + len(lines)))
    rest = budget - len(newlines) - in_thumbnail
    members = [
        [(place, *found[place]) for place in sorted(found) if found[place][0] == crop]
        for crop in range(rows * columns)
    ]
    weights = [
        len(inside) * ratio
        for inside, ratio in zip(members, ratios(scores[0], rows, columns), strict=True)
    ]
    counts = whole([rest * weight / sum(weights) for weight in weights], rest)
    assert len(set(counts)) > 1 or len(counts) == 1, "the ratios say something"
    chosen = newlines + best(scores[0], in_thumbnail)
    for crop, (inside, count) in enumerate(zip(members, counts, strict=True)):
        own = torch.stack([scores[1 + crop, patch] for _, _, patch, _ in inside])
        shown = torch.stack([large[row - top, column - left] for (row, column), *_ in inside])
        worth = own / own.norm() + shown / shown.norm()
        chosen += [place_of[inside[place][3]] for place in best(worth, count)]
    return sorted(chosen)


@pytest.mark.parametrize(("layout", "size", "grid", "budget"), CASES)
def test_what_thumbnail_and_crops_keep(
    layout: str, size: tuple[int, int], grid: tuple[int, int], budget: int
) -> None:
    model = load("llava-next")
    truth = observe(model, tpprof.inputs(model, image_size=size, layout=layout))
    found = run(truth, f"globalcom2:keep={budget}")
    wanted = kept(truth, grid, budget)
    assert len(wanted) == budget
    assert found.trace.kept[0][0].tolist() == wanted
    visual = found.hidden[0][truth.start : truth.start + budget]
    torch.testing.assert_close(visual, truth.entering(0)[wanted], rtol=1e-4, atol=1e-5)


def test_a_budget_that_newlines_use_up() -> None:
    model = load("llava-next")
    lengths = tpprof.inputs(model, image_size=(168, 168), layout="anyres").request
    with pytest.raises(BudgetError, match="the 12 newlines always stay"):
        parse("globalcom2:keep=12").plan(lengths)
    assert parse("globalcom2:keep=13").plan(lengths).entering(lengths) == 13


def test_the_released_ratio() -> None:
    """A quarter: 144 of the thumbnail's 576 tokens, and as many of a crop on average."""
    lengths = request(SHAPES["llava-next-7b"], before=35, after=25, size=(672, 672))
    assert GlobalCom2().plan(lengths).entering(lengths) == 5 * 144
    assert GlobalCom2()._thumbnail(lengths) == 144
