"""Which method runs on which architecture: a method that cannot says so before anything runs."""

from __future__ import annotations

import pytest
from micro_models import VIDEO, shown

import tpprof
from tpprof import methods
from tpprof.profiler.authoring.micro import affordable
from tpprof.profiler.models.model import Model

UNSUPPORTED: set[tuple[str, str]] = {
    *((name, model) for name in VIDEO for model in ("llava", "llava-next")),
    ("downsample", "llava"),
    ("globalcom2", "internvl"),
    ("globalcom2", "llava"),
    ("globalcom2", "llava-onevision"),
    ("globalcom2", "qwen2-vl"),
    ("globalcom2", "qwen2.5-vl"),
    ("globalcom2", "qwen3-vl"),
    ("mustdrop", "llava-onevision"),
    ("tome", "internvl"),
    ("tome", "llava-onevision"),
    ("tome", "qwen2-vl"),
    ("tome", "qwen2.5-vl"),
    ("tome", "qwen3-vl"),
}
"""Methods and architectures that do not go together; all other pairs do."""


@pytest.mark.parametrize("name", methods.names())
def test_what_goes_together(model: Model, name: str) -> None:
    method = affordable(methods.parse(name))

    def plan() -> methods.Plan:
        return method.plan(tpprof.inputs(model, method=method, **shown(model, method)).request)

    if (name, model.shape.architecture.name) not in UNSUPPORTED:
        assert isinstance(plan(), methods.Plan)
        return
    with pytest.raises(methods.UnsupportedError):
        plan()


def test_what_works_on_videos_alone(model: Model) -> None:
    """On a picture it says so, whatever the model."""
    assert VIDEO == ["evs", "fastvid", "flashvid", "vidcom2"]
    request = tpprof.inputs(model, image_size=(168, 168)).request
    for name in VIDEO:
        with pytest.raises(methods.UnsupportedError, match="frames of a video, and there are none"):
            affordable(methods.parse(name)).plan(request)
