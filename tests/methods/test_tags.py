"""Tags ride on the visual tokens, one value each or several: through the tower, the layout with its
newlines, and every stage that drops some."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from micro_models import SIZE
from torch import Tensor

import tpprof
from tpprof.methods import Entering, Keep, Method, Plan, Projected, Request, Stage, Tower, View
from tpprof.profiler.models.model import Model

SEEN: list[tuple[Tensor, Tensor]] = []
"""The patch that each token came from as its narrow and its wide tag say it, stage by stage."""


@dataclass(frozen=True)
class Tagging(Method):
    """Number the patches of all tiles; keep every other token twice."""

    name = "tagging"

    def plan(self, request: Request) -> Plan:
        tower, half = request.tower, request.visual // 2
        return Plan(
            [
                Stage(Tower(tower.layers - 1), tower.patches),
                Stage(Projected(), half),
                Stage(Entering(2), half // 2),
            ]
        )

    def decide(self, view: View, stage: Stage) -> Keep | None:
        if isinstance(stage.site, Tower):
            tiles, count = view.states.shape[0], view.count // view.request.merger
            number = torch.arange(tiles * count).view(tiles, count)
            view.set_tag("narrow", number, newline=-1)
            view.set_tag("wide", torch.stack([number, number + 1], -1), newline=-1)
            return None
        narrow, wide = view.tag("narrow"), view.tag("wide")
        assert narrow is not None
        assert wide is not None
        SEEN.append((narrow, wide))
        assert stage.tokens is not None
        return Keep(2 * torch.arange(stage.tokens).expand(view.hidden.shape[0], -1))


@pytest.mark.parametrize("layout", ["flat", "anyres"])
def test_tags_move_with_their_tokens(model: Model, layout: str) -> None:
    SEEN.clear()
    size = (80, 168) if model.shape.most_tiles else SIZE  # none that is interpolated
    inputs = tpprof.inputs(model, image_size=size, layout=layout, batch_size=2)
    tpprof.forward(model, inputs, Tagging())
    order = inputs.order
    patches = inputs.request.visual
    if order is None:
        whole = torch.arange(2 * patches).view(2, patches)
    else:
        per_sample = int(order.max())  # the number that stands for a newline
        row = torch.where(order == per_sample, -1, order)
        whole = torch.stack([row, torch.where(row < 0, -1, row + per_sample)])
    assert len(SEEN) == 2
    for narrow, wide in SEEN:
        assert torch.equal(narrow, whole)
        assert torch.equal(wide[..., 0], whole)
        assert torch.equal(wide[..., 1], torch.where(whole < 0, -1, whole + 1))
        whole = whole[:, : 2 * (whole.shape[1] // 2) : 2]
