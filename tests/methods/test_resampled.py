"""LLaVA-OneVision interpolates patches to visual tokens: tags follow, or are refused by name."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from micro_models import SIZE, load
from torch import Tensor

import tpprof
from tpprof.methods import (
    Keep,
    Method,
    Plan,
    Projected,
    Request,
    Stage,
    Tower,
    UnsupportedError,
    View,
    parse,
)
from tpprof.methods.engine.verify import DecisionError
from tpprof.tests.methods.reference import laid_out, observe

SEEN: list[Tensor] = []


@dataclass(frozen=True)
class Tagging(Method):
    """Number the patches of each tile in the tower, and look at the numbers before the decoder."""

    name = "tagging"
    dtype: torch.dtype = torch.float32

    def plan(self, request: Request) -> Plan:
        tower = request.tower
        return Plan([Stage(Tower(1), tower.patches), Stage(Projected(), request.visual)])

    def decide(self, view: View, stage: Stage) -> Keep | None:
        if isinstance(stage.site, Tower):
            number = torch.arange(view.states.shape[:2].numel(), dtype=self.dtype)
            view.set_tag("number", number.view(view.states.shape[:2]), newline=-1)
            return None
        SEEN.append(view.tag("number"))
        return None


def test_tags_are_interpolated_as_features_are() -> None:
    SEEN.clear()
    model = load("llava-onevision")
    inputs = tpprof.inputs(model, image_size=SIZE)
    tower = inputs.request.tower
    assert tower.resampled == 100
    tpprof.forward(model, inputs, Tagging())
    number = torch.arange(tower.tiles * tower.patches, dtype=torch.float32)
    wanted = laid_out(observe(model, inputs), number.view(tower.tiles, -1), -1.0)
    assert torch.equal(SEEN[0][0], wanted)


def test_whole_numbers_cannot_be() -> None:
    model = load("llava-onevision")
    inputs = tpprof.inputs(model, image_size=SIZE)
    with pytest.raises(DecisionError, match=r"'number' holds torch\.int64, and this model"):
        tpprof.forward(model, inputs, Tagging(dtype=torch.int64))


def test_a_tag_of_joined_patches_is_said_to_be_one() -> None:
    inputs = tpprof.inputs(load("internvl"), image_size=SIZE)
    with pytest.raises(RuntimeError, match="is of 180 patches, which this model joins to 45"):
        tpprof.forward(load("internvl"), inputs, Tagging())


def test_mustdrop_needs_tokens_that_are_patches() -> None:
    model = load("llava-onevision")
    with pytest.raises(UnsupportedError, match="it marks patches"):
        parse("mustdrop").plan(tpprof.inputs(model, image_size=SIZE).request)
    inputs = tpprof.inputs(model, image_size=(80, 168))
    assert not inputs.request.tower.resampled
    kept = tpprof.forward(model, inputs, "mustdrop:keep=1/2").visual_per_layer
    assert kept[-1] < kept[0] == inputs.request.visual
