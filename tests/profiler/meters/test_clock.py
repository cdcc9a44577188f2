"""The stopwatch, on the host and with fake CUDA events."""

from __future__ import annotations

import time

import pytest
import torch

from tpprof.profiler.meters.clock import Stopwatch


class FakeGpu:
    """A device whose time passes when told; events read it as they are recorded."""

    def __init__(self) -> None:
        self.milliseconds = 0.0
        self.waits = 0
        self.events = 0

    def event(self) -> FakeEvent:
        self.events += 1
        return FakeEvent(self)

    def synchronize(self) -> None:
        self.waits += 1


class FakeEvent:
    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu = gpu
        self.at: float | None = None

    def record(self) -> None:
        self.at = self.gpu.milliseconds

    def elapsed_time(self, later: FakeEvent) -> float:
        assert self.at is not None
        assert later.at is not None
        assert self.gpu.waits > 1, "read before the device was waited for"
        return later.at - self.at


def test_parts_follow_one_another_and_repeated_ones_add_up() -> None:
    gpu = FakeGpu()
    watch = Stopwatch(torch.device("cuda"), event=gpu.event, synchronize=gpu.synchronize)
    watch.start()
    for milliseconds, lap in ((2, "layer"), (3, "score"), (5, "layer")):
        gpu.milliseconds += milliseconds
        watch.lap("prefill", lap, 1)
    timing = watch.stop()
    assert timing.parts == pytest.approx(
        {("prefill", "layer", 1): 0.007, ("prefill", "score", 1): 0.003}
    )
    assert sum(timing.parts.values()) == pytest.approx(0.010)
    assert gpu.waits == 2, "one wait before and one after, none inside"


def test_events_are_reused_and_nothing_leaks_into_the_next_request() -> None:
    gpu = FakeGpu()
    watch = Stopwatch(torch.device("cuda"), event=gpu.event, synchronize=gpu.synchronize)
    for expected in (1.0, 4.0):
        watch.start()
        gpu.milliseconds += expected
        watch.lap("head", "head")
        assert watch.stop().parts == {("head", "head", None): pytest.approx(expected / 1e3)}
    assert gpu.events == 2


def test_a_request_goes_on_from_device_to_device_without_a_gap() -> None:
    """Events of two GPUs cannot be compared: a step ends on both of its sides, and between these
    ends nothing is counted. Each device has events of its own, which are used again."""
    gpus, at_work = [FakeGpu(), FakeGpu()], 0
    watch = Stopwatch(
        torch.device("cuda", 0),
        others=[torch.device("cuda", 1)],
        event=lambda: gpus[at_work].event(),
        synchronize=lambda: [gpu.synchronize() for gpu in gpus] and None,
        current=lambda: at_work,
    )
    for _ in range(2):
        at_work = 0
        watch.start()
        for lap, milliseconds in (("layer", 2), ("move", 1)):
            gpus[0].milliseconds += milliseconds
            watch.lap("prefill", lap, 4)
        at_work, gpus[1].milliseconds = 1, 1000.0  # whatever that one's clock says
        watch.lap("prefill", "move", 4)
        gpus[1].milliseconds += 5
        watch.lap("head", "head")
        assert watch.stop().parts == pytest.approx(
            {
                ("prefill", "layer", 4): 0.002,
                ("prefill", "move", 4): 0.001,
                ("head", "head", None): 0.005,
            }
        )
    assert [gpu.events for gpu in gpus] == [3, 2]


def test_host_clock_accounts_for_the_whole_request() -> None:
    watch = Stopwatch(torch.device("cpu"))
    watch.start()
    time.sleep(0.01)
    watch.lap("vision", "tower")
    time.sleep(0.005)
    watch.lap("head", "head")
    timing = watch.stop()
    assert list(timing.parts) == [("vision", "tower", None), ("head", "head", None)]
    assert timing.parts["vision", "tower", None] >= 0.01
    assert sum(timing.parts.values()) <= timing.latency


@pytest.mark.gpu
def test_cuda_events_measure_what_the_device_did() -> None:
    watch = Stopwatch(torch.device("cuda"))
    watch.start()
    torch.cuda._sleep(20_000_000)
    watch.lap("prefill", "layer", 0)
    timing = watch.stop()
    assert timing.parts["prefill", "layer", 0] > 0.001
    assert sum(timing.parts.values()) == pytest.approx(timing.latency, rel=0.2)
