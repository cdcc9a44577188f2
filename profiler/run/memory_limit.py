"""Whether a request can be run at all: what it will hold, against the memory that there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...methods import parse
from ...methods.contract.errors import InputError
from ...methods.engine.ledger import planned
from ...reports.record.spec import Workload
from ..cost.memory import peak_bytes
from ..models.device_memory import device_memory
from ..models.model import Model
from ..models.shapes import Shape
from ..models.weights.pipeline import parts_of
from ..workload import plan_request

ERRS_HIGH = 1.3  # times the real peak, at most: how far a plan was seen to be above it


def require_room(model: Model, workload: Workload) -> None:
    """Raises InputError, before anything is allocated, where vanilla's planned peak exceeds all the
    memory of the device by more than the plan may err, or of one of a pipeline; of a prompt that is
    yet to be tokenised, the length is not in it."""
    require_room_on(model.pipeline, model.shape, workload, model.dtype.itemsize, model.share)


def require_room_on(
    devices: Sequence[Any],
    shape: Shape,
    workload: Workload,
    itemsize: int,
    share: Shape | None = None,
) -> None:
    """The same of a model that need not be loaded. share: what one rank has of it."""
    request = plan_request(shape, workload)
    ledger = planned(parse("vanilla").plan(request), request, "rows")
    own = share or shape
    for part, device in zip(parts_of(own, len(devices)), devices, strict=True):
        needed = peak_bytes(own, request, ledger, itemsize, part)
        there = device_memory(device)
        if needed > ERRS_HIGH * there:
            more = ", or give --pipeline more GPUs" if len(devices) > 1 else ""
            raise InputError(
                f"this request needs about {needed / 2**30:,.0f} GiB, weights included, and "
                f"{device} has {there / 2**30:,.0f} GiB: make the picture, the text, the batch "
                f"or the answer smaller{more}"
            )
