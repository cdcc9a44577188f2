"""Attention kernels that can be asked for, and why one cannot be had here."""

from __future__ import annotations

import importlib
import warnings
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import nn

from ...methods.contract.errors import first_line
from ...methods.engine.attention import SDPA_KERNELS, call_backend, held_to
from .errors import ModelError
from .shapes import Shape

FLASH = {
    "flash_attention_2": ("flash-attn", "pip install 'tpprof[flash]'"),
    "flash_attention_3": ("flash-attn-3", "build it from flash-attention's folder `hopper`"),
    "flash_attention_4": ("flash-attn-4", "pip install 'tpprof[flash4]'"),
}
"""FlashAttention as transformers names it: the package that it needs, and where that is had."""
BACKENDS = ("sdpa", *SDPA_KERNELS, *FLASH, "eager")
OLDEST = 8
"""Major compute capability below which no FlashAttention runs (Ampere)."""


def require_backend(backend: str, device: torch.device, dtype: torch.dtype) -> None:
    """See that a backend exists, and that the device and the packages are there; raises
    ModelError."""
    if backend not in BACKENDS:
        raise ModelError(f"unknown attention backend {backend!r}; known: {', '.join(BACKENDS)}")
    if backend in FLASH:
        _require_flash(backend, device, dtype)
    elif backend in SDPA_KERNELS and backend != "sdpa-flash" and device.type != "cuda":
        raise _refused(backend, f"torch has this kernel on CUDA alone, not on {device.type}")


def require_kernel(backend: str, device: torch.device, dtype: torch.dtype, shape: Shape) -> None:
    """See that a backend takes the heads of the decoder and of the vision tower: one call of two
    tokens each. Raises ModelError with what its kernel says."""
    if backend not in SDPA_KERNELS and backend not in FLASH:
        return
    text, vision = shape.text, shape.vision
    for part, heads, key_heads, width in (
        ("decoder", text.heads, text.kv_heads, text.head_dim),
        ("vision tower", vision.heads, vision.heads, vision.hidden // vision.heads),
    ):
        layer: Any = nn.Module().eval()
        layer.is_causal, layer.num_key_value_groups = part == "decoder", heads // key_heads
        query = torch.zeros(1, heads, 2, width, device=device, dtype=dtype)
        key = torch.zeros(1, key_heads, 2, width, device=device, dtype=dtype)
        with warnings.catch_warnings(record=True) as told, held_to(backend), torch.no_grad():
            warnings.simplefilter("always")
            try:
                call_backend(backend, layer, query, key, key, None, dropout=0.0, scaling=1.0)
            except Exception as error:
                why = _why([str(warning.message) for warning in told]) or first_line(error)
                raise _refused(backend, f"it does not take the {part}: {why}") from error


def _require_flash(backend: str, device: torch.device, dtype: torch.dtype) -> None:
    package, had = FLASH[backend]
    try:
        installed = version(package)
    except PackageNotFoundError:
        raise _refused(backend, f"needs the package {package} and a GPU ({had})") from None
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        reason = f"runs on CUDA in float16 or bfloat16 only, not on {device.type} in {dtype}"
        raise _refused(backend, reason)
    major, minor = torch.cuda.get_device_capability(device)
    least = _least_capability(backend)
    if major < least:
        reason = f"needs compute capability {least}.0 or higher, this GPU has {major}.{minor}"
        raise _refused(backend, reason)
    if not _taken(backend):
        raise _refused(
            backend, f"transformers does not take the {package} {installed} that is here"
        )


def _least_capability(backend: str) -> int:
    """The major compute capability that transformers asks for."""
    try:
        found = importlib.import_module("transformers.modeling_flash_attention_utils")
        known = found.FLASH_ATTENTION_COMPATIBILITY_MATRIX[int(backend[-1])]
        return int(known.get("cuda_min_major_version", OLDEST))
    except (ImportError, AttributeError, KeyError):
        return OLDEST


def _taken(backend: str) -> bool:
    """Whether transformers finds the package good; a version that does not know it takes none."""
    found = importlib.import_module("transformers.utils.import_utils")
    available = getattr(found, f"is_flash_attn_{backend[-1]}_available", None)
    return bool(available and available())


def _why(warned: list[str]) -> str:
    """What torch says of a kernel that it refuses, without what it says of those not asked for."""
    said = [line.partition(" (Triggered")[0].strip() for line in warned]
    kept = [
        line
        for line in said
        if not line.endswith("not used because:") and "runtime disabled" not in line
    ]
    return " ".join("; ".join(dict.fromkeys(kept)).split())


def _refused(backend: str, reason: str) -> ModelError:
    return ModelError(f"attention backend {backend}: {reason.rstrip('.')}; use --backend sdpa")
