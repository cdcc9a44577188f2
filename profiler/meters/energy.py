"""Joules of a request, from the energy counter of the GPU."""

from __future__ import annotations

from collections.abc import Callable

from ...reports.record.schema import Energy
from . import clock
from .nvml import Gpu

SHORTEST = 1.0
"""Seconds: below this the energy counter, renewed every 20 to 100 ms, says too little."""


def energy_per_request(
    gpu: Gpu,
    request: Callable[[], object],
    wait: Callable[[], None],
    *,
    seconds: float = 2.0,
    now: Callable[[], float] = clock.now,
) -> Energy:
    """Joules of the whole GPU per `request`, which is run over and over for at least `seconds`.

    Nothing is subtracted for what an idle GPU draws. `wait` waits until the device has done all
    that was queued; its time and its joules count. None with a reason where the counter is missing
    or stood still, or where all took less than a second. What `request` raises is passed on.
    """
    wait()
    before, reason = gpu.energy_joules()
    if before is None:
        return Energy(reason=reason)
    began = now()
    requests = 0
    while requests == 0 or now() - began < seconds:
        request()
        requests += 1
    wait()
    after, reason = gpu.energy_joules()
    took = now() - began
    energy = Energy(requests=requests, seconds=took, reason=reason)
    if after is None:
        return energy
    if took < SHORTEST:
        energy.reason = f"measured for {took:.2f} s, the counter needs {SHORTEST:.0f} s"
    elif after <= before:
        energy.reason = "the energy counter did not advance"
    else:
        energy.joules = (after - before) / requests
    return energy
