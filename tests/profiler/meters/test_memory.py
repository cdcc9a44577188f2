"""Peak memory, with fakes where a GPU would be."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tpprof.methods.engine.context import Lap
from tpprof.profiler.meters import memory


class FakeNvml:
    """NVML of a machine with one GPU; `broken` names the call that fails."""

    def __init__(self, broken: str = "") -> None:
        self.broken = broken
        self.open = 0

    def _call(self, name: str) -> None:
        if name == self.broken:
            raise RuntimeError("Not Supported")

    def nvmlInit(self) -> None:  # noqa: N802
        self._call("init")
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        self._call("handle")
        return uuid

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:  # noqa: N802
        self._call("memory")
        return SimpleNamespace(used=3 * 2**30 if handle == "GPU-abc" else 0)


def test_device_memory_comes_from_nvml() -> None:
    nvml = FakeNvml()
    assert memory.device_memory("GPU-abc", nvml) == (3 * 2**30, "")
    assert nvml.open == 0


@pytest.mark.parametrize("broken", ["init", "handle", "memory"])
def test_what_nvml_cannot_say_is_unknown_with_a_reason(broken: str) -> None:
    nvml = FakeNvml(broken)
    used, reason = memory.device_memory("GPU-abc", nvml)
    assert used is None
    assert "Not Supported" in reason
    assert nvml.open == 0


def test_resident_peak_sees_an_allocation_of_this_request_only() -> None:
    size = 64 * 2**20
    if not memory.reset_resident_peak():
        pytest.skip("this system does not let the peak be reset")
    left_behind = [bytearray(2**20) for _ in range(128)]
    del left_behind  # freed memory that the next allocation could take without a trace
    small, result = memory.peak([torch.device("cpu")], lambda lap: 7)
    assert result == 7
    large = memory.peak([torch.device("cpu")], lambda lap: bytearray(b"x") * size)[0]
    after, _ = memory.peak([torch.device("cpu")], lambda lap: None)
    assert small.resident is not None
    assert large.resident is not None
    assert after.resident is not None
    assert large.resident - small.resident > size // 2
    assert after.resident < large.resident - size // 2
    assert large.allocator is None
    assert "allocator" in large.reasons


def test_a_peak_that_cannot_be_reset_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "reset_resident_peak", lambda: False)
    peak, _ = memory.peak([torch.device("cpu")], lambda lap: None)
    assert peak.resident is None
    assert "reset" in peak.reasons["resident"]


def test_the_peaks_of_a_pipeline_are_known_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    reached = {"cuda:0": 0, "cuda:1": 0}
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: reached[str(device)])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    cards = {"cuda:0": SimpleNamespace(uuid="abc"), "cuda:1": SimpleNamespace(uuid="def")}
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: cards[str(device)])
    used = {"GPU-abc": (900, ""), "GPU-def": (None, "NVML: lost")}
    monkeypatch.setattr(memory, "device_memory", lambda uuid: used[uuid])

    def request(lap: Lap) -> None:
        for phase, first, second in (("vision", 300, 70), ("prefill", 200, 500)):
            reached.update({"cuda:0": first, "cuda:1": second})
            lap(phase, "layer", 0)

    peak, _ = memory.peak([torch.device("cuda", 0), torch.device("cuda", 1)], request, [100, 50])
    assert [(one.name, one.allocator, one.device) for one in peak.devices] == [
        ("cuda:0", 200, 900),
        ("cuda:1", 450, None),
    ]
    assert peak.allocator == 650  # each at its own time: what there must be on all of them
    assert peak.allocator_by_phase == {"vision": 220, "prefill": 550}
    assert (peak.device, peak.reasons["device"]) == (None, "NVML: lost")


def test_gpu_peak_per_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    state = {"now": 100, "peak": 100}
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device=None: state["peak"])
    card = SimpleNamespace(uuid="abc")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(
        torch.cuda, "reset_peak_memory_stats", lambda device=None: state.update(peak=state["now"])
    )
    monkeypatch.setattr(memory, "device_memory", lambda uuid: (None, f"NVML: no driver for {uuid}"))

    def request(lap) -> None:  # type: ignore[no-untyped-def]
        for phase, peak in (("vision", 300), ("prefill", 500), ("prefill", 200)):
            state["peak"] = peak
            lap(phase, "layer", 0)

    peak, _ = memory.peak([torch.device("cuda")], request)
    assert peak.allocator_by_phase == {"vision": 300, "prefill": 500}
    assert peak.allocator == 500
    assert peak.device is None
    assert peak.reasons["device"] == "NVML: no driver for GPU-abc"
