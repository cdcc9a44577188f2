"""Knobs at their far ends: what is larger than the picture is as large as it."""

from __future__ import annotations

import pytest

import tpprof
from tpprof.profiler.models.model import Model

HUGE = 10**23  # more than 64 bits hold
ALIKE = [  # a spec, and one that says the same
    (f"pooling:window={HUGE}", "pooling:window=100"),
    (f"vscan:keep=40,window={HUGE}", "vscan:keep=40,window=100"),
    (f"fastv-window:keep=40,height={HUGE}", "fastv-window:keep=40,height=100"),
    (f"holov:keep=40,crops={HUGE}", "holov:keep=40,crops=100000"),
    ("vispruner:keep=40,important=1", "fastervlm:keep=40"),
]


@pytest.mark.parametrize("layout", ["flat", "anyres"])
@pytest.mark.parametrize(("extreme", "usual"), ALIKE)
def test_what_is_larger_than_the_picture(
    llava_next: Model, extreme: str, usual: str, layout: str
) -> None:
    inputs = tpprof.inputs(llava_next, image_size=(168, 140), layout=layout)
    one, other = (tpprof.forward(llava_next, inputs, spec) for spec in (extreme, usual))
    assert [kept.tolist() for kept in one.kept] == [kept.tolist() for kept in other.kept]
    assert one.visual_per_layer[-1] < inputs.request.visual


def test_visionzip_without_contextual_tokens_keeps_dominant_ones_alone(llava_next: Model) -> None:
    inputs = tpprof.inputs(llava_next, image_size=(168, 168))
    kept = tpprof.forward(llava_next, inputs, "visionzip:keep=40,contextual=0").kept[0][0]
    assert kept.shape == (40,)
    assert int((kept < 0).sum()) == 5, "the class tokens of five tiles"


def test_vispruner_without_important_tokens_keeps_unlike_ones_alone(llava_next: Model) -> None:
    inputs = tpprof.inputs(llava_next, image_size=(168, 168))
    none, half = (
        tpprof.forward(llava_next, inputs, f"vispruner:keep=40,important={share}").kept[0][0]
        for share in ("0", "1/2")
    )
    assert none.shape == half.shape == (40,)
    assert none.tolist() != half.tolist()
