"""Shapes small enough to run hundreds of requests, one of each architecture."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import tpprof
from tpprof import methods
from tpprof.methods import Encoder, Segment, Size
from tpprof.profiler.authoring.micro import SIZE, affordable, shown_to
from tpprof.profiler.models.model import Model
from tpprof.profiler.models.registry import known_architectures, known_shapes
from tpprof.profiler.models.shapes import Shape
from tpprof.profiler.models.towers.dinov2 import MICRO_DINOV2
from tpprof.reports.record.spec import Layout

__all__ = [
    "MICRO",
    "MICRO_DINO",
    "PRUNING",
    "ROPE_FACTORS",
    "SHAPES",
    "SIZE",
    "THOROUGH",
    "VIDEO",
    "config",
    "encoder",
    "load",
    "load_with_rope",
    "rope",
    "segments",
    "sharpen",
    "shown",
    "skip_unsupported",
]

MICRO = {name: each.micro() for name, each in known_architectures().items()}
MICRO_DINO = replace(MICRO["llava"], name="micro-dino", vision=MICRO_DINOV2)
"""A LLaVA with another tower."""
SHAPES = known_shapes()

THOROUGH = ("llava", "llava-next", "qwen2-vl")
"""Architectures on which tests run under each policy and in each dtype; on others, under the first
of them alone: what differs by policy differs in the engine."""

_LOADED: dict[str, Model] = {}

VIDEO = [name for name in methods.names() if methods.method_class(name).video]
"""Methods for videos alone."""
PRUNING = [
    name
    for name in methods.names()
    if methods.method_class(name).resized is methods.Method.resized and name not in VIDEO
]
"""Methods that prune pictures in the model; the others only change the picture that it is given, or
are for videos."""


ROPE_FACTORS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 2.0, "original_max_position_embeddings": 64},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "longrope": {
        "factor": 2.0,
        "short_factor": [1.0] * 8,
        "long_factor": [2.0] * 8,
        "original_max_position_embeddings": 64,
    },
    "proportional": {},
}
"""Rotary types, and what they are told beside their base."""


def config(shape: Shape) -> Any:
    """The transformers config of a shape."""
    return shape.architecture.config(shape)


def segments(shape: Shape, size: Size, layout: Layout) -> tuple[Segment, ...]:
    """The rectangles of visual tokens of a picture."""
    return shape.architecture.segments(shape, size, layout)


def encoder(shape: Shape, size: Size, layout: Layout) -> Encoder:
    """The vision tower at work on a picture."""
    return shape.architecture.encoder(shape, size, layout)


def load(architecture: str) -> Model:
    if architecture not in _LOADED:
        model = tpprof.load(MICRO[architecture], device="cpu", seed=1)
        sharpen(model)
        _LOADED[architecture] = model
    return _LOADED[architecture]


def shown(model: Model, method: methods.Method) -> dict[str, Any]:
    """What a method is shown on a model: a picture, or the frames of a video."""
    frames = shown_to(method, model.shape.architecture.name)
    return {"image_size": SIZE} if frames is None else {"image_size": SIZE, "frames": frames}


def skip_unsupported(model: Model, spec: str, **options: Any) -> None:
    """Skip where the method says that it cannot run on the model, as test_support.py lists."""
    method = affordable(methods.parse(spec))
    try:
        given = {**shown(model, method), **options}
        method.plan(tpprof.inputs(model, method=method, **given).request)
    except methods.UnsupportedError as error:
        pytest.skip(str(error))


def sharpen(model: Model) -> None:
    """Larger query and key weights: attention far from uniform, so that scores differ clearly."""
    with torch.no_grad():
        for name, weight in model.module.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                weight.mul_(6.0)


def rope(kind: str, architecture: str = "llava", key: str = "rope_type") -> dict[str, Any]:
    """The section of a config that asks for this rotary embedding."""
    given = config(MICRO[architecture]).text_config.rope_parameters
    axes = {axis: given[axis] for axis in given if axis.startswith("mrope")}
    return {key: kind, "rope_theta": 1e4, **ROPE_FACTORS.get(kind, {}), **axes}


def load_with_rope(kind: str, architecture: str, monkeypatch: pytest.MonkeyPatch) -> Model:
    """A micro model with this rotary embedding and 64 positions, made past what refuses it."""
    given = config(MICRO[architecture])
    given.text_config.rope_parameters = rope(kind, architecture)
    given.text_config.max_position_embeddings = 64
    with monkeypatch.context() as patch:
        kind_of = type(MICRO[architecture].architecture)
        patch.setattr(kind_of, "config", lambda self, shape: given)
        return tpprof.load(MICRO[architecture], device="cpu")
