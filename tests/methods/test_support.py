"""Which method runs on which architecture: a method that cannot says so before anything runs."""

from __future__ import annotations

import pytest
from micro_models import SIZE

import tpprof
from tpprof import methods
from tpprof.profiler.models.model import Model

UNSUPPORTED: set[tuple[str, str]] = {
    ("globalcom2", "llava"),
    ("globalcom2", "qwen2-vl"),
    ("tome", "qwen2-vl"),
}
"""Methods and architectures that do not go together; all other pairs do."""


@pytest.mark.parametrize("name", methods.names())
def test_what_goes_together(model: Model, name: str) -> None:
    request = tpprof.inputs(model, image_size=SIZE).request
    method = methods.with_keep(methods.parse(name), "1/2")
    if (name, model.shape.architecture) not in UNSUPPORTED:
        method.plan(request)
        return
    with pytest.raises(methods.UnsupportedError):
        method.plan(request)
