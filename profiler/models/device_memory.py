"""How much memory a device has for this process, and whether weights fit into it."""

from __future__ import annotations

import os
import resource
from pathlib import Path, PurePosixPath
from typing import Any

from .errors import ModelError


def require_weights_fit(name: str, count: int, device: Any, dtype: Any) -> None:
    """Raises ModelError, before anything is allocated, where `count` parameters in `dtype` are
    more than the device has."""
    needed, there = count * dtype.itemsize, device_memory(device)
    if needed > there:
        raise no_room(name, count, device, dtype, f"{device} has {there / 2**30:,.1f} GiB")


def no_room(name: str, count: int, device: Any, dtype: Any, reason: str) -> ModelError:
    return ModelError(
        f"{name} needs {count * dtype.itemsize / 2**30:,.1f} GiB for its weights in "
        f"{str(dtype).removeprefix('torch.')}, and {reason}: choose a smaller --model or --dtype"
    )


def device_memory(device: Any) -> int:
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
