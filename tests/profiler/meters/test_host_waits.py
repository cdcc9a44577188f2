"""What makes the host wait is seen on a CPU, and what does not is left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tpprof.profiler.meters.host_waits import HostWaits


@pytest.mark.parametrize(
    ("read", "waits"),
    [
        (lambda values: values.tolist(), 1),
        (lambda values: values.to("cpu"), 1),
        (lambda values: values[values > 1], 1),
        (lambda values: values.to("cpu", non_blocking=True), 0),
        (lambda values: values + 1, 0),
    ],
    ids=["values", "copy", "flags", "copy ahead", "sum"],
)
def test_a_wait_is_a_read_that_needs_the_value(read: Callable[[Tensor], Any], waits: int) -> None:
    with HostWaits({__file__}) as seen:
        read(torch.ones(3))
    assert sum(seen.seen.values()) == waits
