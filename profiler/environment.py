"""Where a run took place: enough to see whether two records may be compared."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "flash-attn", "numpy")


def environment(device: Any) -> dict[str, Any]:
    """Machine, packages and settings, as plain data; `device` is a torch device."""
    import torch

    described: dict[str, Any] = {
        "device": _cpu_name(),
        "device_type": device.type,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        described["device"] = properties.name
        described["device_memory"] = properties.total_memory
        described["device_uuid"] = str(getattr(properties, "uuid", ""))
        described["cuda"] = torch.version.cuda
    else:
        described["device"] = f"{described['cpu']}, {described['threads']} thread(s)"
    return described


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
