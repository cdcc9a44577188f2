"""What a record says of the model and the request: tpprof's own, or of none."""

from __future__ import annotations

from typing import Any

from ...reports.record import schema
from ...reports.record.spec import Workload
from ..models.model import Model
from ..workload import Preparation

THEIRS = "callables"
"""The model's name in a record of callables alone."""


def model_info(model: Model | None, reason: str, layers: int | None) -> schema.ModelInfo:
    """The model; of callables alone, that tpprof has none."""
    if model is None:
        return schema.ModelInfo(
            name=THEIRS,
            architecture="unknown",
            source="their own",
            reason=reason,
            parameters=None,
            layers=None,
            dtype="unknown",
            backend="unknown",
        )
    return schema.ModelInfo(
        name=model.name,
        architecture=model.shape.architecture.name,
        source=model.source,
        reason=reason,
        parameters=sum(weight.numel() for weight in model.module.parameters()),
        layers=layers,
        dtype=str(model.dtype).removeprefix("torch."),
        backend=model.backend,
        positions=getattr(model.text_config, "max_position_embeddings", None),
        pipeline=_pipeline(model),
    )


def _pipeline(model: Model) -> list[schema.PipelinePart]:
    """What each device of a pipeline holds; none where the model lies on one."""
    if len(model.pipeline) == 1:
        return []
    weights = list(model.module.parameters())
    return [
        schema.PipelinePart(
            device=str(device),
            layers=sum(each == device for each in model.devices),
            parameters=sum(weight.numel() for weight in weights if weight.device == device),
        )
        for device in model.pipeline
    ]


def request_info(prepare: Preparation | None, workload: Workload) -> schema.RequestInfo:
    """The request; of callables alone, how many tokens they are asked for."""
    if prepare is None:
        unknown: dict[str, Any] = dict.fromkeys(("before", "visual", "after", "tiles", "patches"))
        batch, new_tokens = workload.batch_size, workload.new_tokens
        return schema.RequestInfo(**unknown, batch=batch, new_tokens=new_tokens)
    request = prepare.request
    encoder = request.encoder
    return schema.RequestInfo(
        before=request.before,
        visual=request.visual,
        after=request.after,
        batch=request.batch,
        new_tokens=request.new_tokens,
        tiles=encoder.tiles if encoder else None,
        patches=encoder.patches if encoder else None,
        positions=prepare().next_position + request.new_tokens - 1,
        between=request.text - request.before - request.after,
        pictures=0 if request.frames else len(request.spans),
        frames=len(prepare.pictures) if request.frames else 0,
        picture=[list(size) for size in prepare.whole_sizes] or None,
        notes=[note for picture in prepare.pictures for note in picture.notes],
        preprocessing=prepare.preprocessing,
    )
