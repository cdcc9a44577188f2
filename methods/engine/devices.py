"""A pipeline: decoder layers that lie on several devices, run one after another by one process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


def use(device: torch.device) -> None:
    """Make a GPU the current one: events are recorded there, and kernels that ask for no device
    run there."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


@contextmanager
def current_restored(devices: Sequence[torch.device]) -> Iterator[None]:
    """Let a request over several devices change the current one; then it is what it was."""
    if len(set(devices)) == 1 or devices[0].type != "cuda":
        yield
        return
    with torch.cuda.device(devices[0]):
        yield


def moved(values: Tensor, device: torch.device) -> Tensor:
    """The values on `device`, which is the current one then."""
    if values.device != device:
        use(device)
    return near(values, device)


def near(values: Tensor, device: torch.device) -> Tensor:
    """The values on `device`; no operator is called where they are there."""
    return values if values.device == device else values.to(device)
