"""Questions of which each may fail alone."""

from __future__ import annotations

import pytest

from tpprof.profiler.meters.readers import UnknownError, module_or_absent, read_fields
from tpprof.reports.record.gpu import GpuState


def fails() -> None:
    raise UnknownError("nobody knows")


def breaks() -> None:
    raise RuntimeError("lost\nand gone")


def test_each_field_is_its_value_or_has_a_reason() -> None:
    found = read_fields(
        GpuState,
        {
            "sm_clock_hz": lambda: 345e6,
            "memory_clock_hz": lambda: None,
            "power_watts": fails,
            "power_limit_watts": breaks,
        },
    )
    assert GpuState(**found) == GpuState(
        sm_clock_hz=345e6,
        reasons={
            "memory_clock_hz": "there is none here",
            "power_watts": "nobody knows",
            "power_limit_watts": "RuntimeError: lost",
        },
    )


@pytest.mark.parametrize("answer", [b"345", "fast", -1.0])
def test_an_answer_that_a_record_could_not_hold_is_unknown(answer: object) -> None:
    found = read_fields(GpuState, {"sm_clock_hz": lambda: answer})
    assert found["sm_clock_hz"] is None
    assert "Expected" in found["reasons"]["sm_clock_hz"]


def test_what_does_not_import_says_so_when_it_is_asked() -> None:
    absent = module_or_absent("no_such_module_at_all")
    with pytest.raises(UnknownError, match="no_such_module_at_all does not import"):
        absent.function()
