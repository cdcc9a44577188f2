"""Shapes small enough to run hundreds of requests, one of each architecture."""

from __future__ import annotations

import torch

import tpprof
from tpprof.profiler.models.model import Model
from tpprof.profiler.models.shapes import Shape, Text, Vision

SIZE = (168, 168)  # a picture of 2 x 2 tiles, or 6 x 6 merged tokens
_CLIP = Vision(layers=4, hidden=48, intermediate=96, heads=3, image=84)

MICRO = {
    "llava": Shape("micro-llava", "llava", Text(8, 64, 112, 4, 4, 512), _CLIP),
    "llava-next": Shape(
        "micro-llava-next",
        "llava-next",
        Text(8, 64, 112, 4, 4, 512),
        _CLIP,
        ((84, 168), (168, 84), (168, 168)),
    ),
    "qwen2-vl": Shape(
        "micro-qwen2-vl",
        "qwen2-vl",
        Text(8, 64, 112, 4, 2, 512, qkv_bias=True),
        Vision(
            layers=4,
            hidden=48,
            intermediate=96,
            heads=3,
            image=0,
            merge=2,
            temporal=2,
            feature_layers=(-1,),
        ),
    ),
}


_LOADED: dict[str, Model] = {}


def load(architecture: str) -> Model:
    if architecture not in _LOADED:
        model = tpprof.load(MICRO[architecture], device="cpu", seed=1)
        sharpen(model)
        _LOADED[architecture] = model
    return _LOADED[architecture]


def sharpen(model: Model) -> None:
    """Larger query and key weights: attention far from uniform, so that scores differ clearly."""
    with torch.no_grad():
        for name, weight in model.module.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                weight.mul_(6.0)
