"""Whether a request can be run at all: what it will hold, against the memory that there is."""

from __future__ import annotations

from ...methods import parse
from ...methods.contract.errors import InputError
from ...methods.engine.ledger import planned
from ...reports.record.spec import Workload
from ..cost.memory import peak_bytes
from ..models.device_memory import device_memory
from ..models.model import Model
from ..workload import plan_request

ERRS_HIGH = 1.3  # times the real peak, at most: how far a plan was seen to be above it


def require_room(model: Model, workload: Workload) -> None:
    """Raises InputError, before anything is allocated, where vanilla's planned peak exceeds all the
    memory of the device by more than the plan may err; of a prompt that is yet to be tokenised, the
    length is not in it."""
    request = plan_request(model.shape, workload)
    ledger = planned(parse("vanilla").plan(request), request, "rows")
    needed = peak_bytes(model.share, request, ledger, model.dtype.itemsize)
    there = device_memory(model.device)
    if needed > ERRS_HIGH * there:
        raise InputError(
            f"this request needs about {needed / 2**30:,.0f} GiB, weights included, and "
            f"{model.device} has {there / 2**30:,.0f} GiB: make the picture, the text, the batch "
            "or the answer smaller"
        )
