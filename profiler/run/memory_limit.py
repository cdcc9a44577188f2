"""Whether a request can be run at all: what it will hold, against the memory that there is."""

from __future__ import annotations

import os
import resource
from pathlib import Path, PurePosixPath
from typing import Any

from ...methods import parse
from ...methods.contract.errors import InputError
from ...methods.engine.ledger import planned
from ...reports.record.spec import Workload
from ..cost.memory import peak_bytes
from ..models.model import Model
from ..workload import SYNTHETIC_TEXT, plan_request

ERRS_HIGH = 1.3  # times the real peak, at most: how far a plan was seen to be above it


def require_room(model: Model, workload: Workload) -> None:
    """Raises InputError, before anything is allocated, where vanilla's planned peak exceeds all the
    memory of the device by more than the plan may err; of a prompt that is yet to be tokenised, the
    length is not in it."""
    before, after = workload.text_tokens or SYNTHETIC_TEXT
    request = plan_request(model.shape, workload, before=before, after=after)
    ledger = planned(parse("vanilla").plan(request), request, "rows")
    needed = peak_bytes(model.shape, request, ledger, model.dtype.itemsize)
    there = _memory(model.device)
    if needed > ERRS_HIGH * there:
        raise InputError(
            f"this request needs about {needed / 2**30:,.0f} GiB, weights included, and "
            f"{model.device} has {there / 2**30:,.0f} GiB: make the picture, the text, the batch "
            "or the answer smaller"
        )


def _memory(device: Any) -> int:
    """Bytes that the device has; on a CPU no more than this process, or its container, may take."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.get_device_properties(device).total_memory)
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [resource.getrlimit(resource.RLIMIT_AS)[0], *cgroup_limits()]
    return min([physical, *(limit for limit in limits if limit != resource.RLIM_INFINITY)])


def cgroup_limits(root: Path = Path("/")) -> list[int]:
    """Bytes that the control groups of this process allow, from its own up; empty where none does
    or the system has no such groups."""
    mounted, limits = root / "sys/fs/cgroup", []
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, own = line.split(":", 2)
        if "memory" in controllers.split(","):  # version 1
            base, name = mounted / "memory", "memory.limit_in_bytes"
        elif not controllers:
            base, name = mounted, "memory.max"
        else:
            continue
        place = PurePosixPath(own.lstrip("/"))
        for folder in (place, *place.parents):
            limits += [int(text) for text in _lines(base / folder / name) if text.isdecimal()]
    return limits


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
