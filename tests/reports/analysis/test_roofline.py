"""Floors by hand, and the datasheets they may come from."""

from __future__ import annotations

import msgspec
import pytest
from record_builders import cell, headings_and_lines, record, work

from tpprof.profiler.machine.datasheets import DATASHEETS, Sheet, datasheet, datasheet_of
from tpprof.reports.analysis import caveats, roofline
from tpprof.reports.record.schema import Bandwidth, Cost, Peaks
from tpprof.reports.text.waterfall import roofline_table


def peaks(**changed: object) -> Peaks:
    """1 TFLOP/s; the first MB moves at 1 TB/s, the next 9 at 100 GB/s, all else at 10 GB/s."""
    given: dict[str, object] = {
        "device": "a machine",
        "source": "measured",
        "flops_per_second": {"float32": 1e12},
        "bandwidth": [
            Bandwidth(footprint_bytes=10**6, bytes_per_second=1e12),
            Bandwidth(footprint_bytes=10**7, bytes_per_second=1e11),
            Bandwidth(footprint_bytes=10**8, bytes_per_second=1e10),
        ],
    }
    return Peaks(**{**given, **changed})  # type: ignore[arg-type]


def costing(phase: str = "prefill", index: int | None = 0, **changed: int) -> Cost:
    given = {"flops": 0, "causal_flops": 0, "read_bytes": 0, "written_bytes": 0, "launches": 0}
    return Cost(phase=phase, part="layer", index=index, operator="ffn", **{**given, **changed})


@pytest.mark.parametrize(
    ("count", "seconds"),
    [
        (0, 0.0),
        (500_000, 0.5e-6),
        (10**6, 1e-6),
        (2 * 10**6, 1e-6 + 1e-5),
        (10**7, 1e-6 + 9e-5),
        (10**9, 1e-6 + 9e-5 + (10**9 - 10**7) / 1e10),
    ],
)
def test_bytes_move_as_fast_as_what_still_fits_a_cache(count: int, seconds: float) -> None:
    assert roofline.move_seconds(peaks(), count) == pytest.approx(seconds)


def test_a_small_working_set_is_never_slower_than_a_larger_one() -> None:
    """Tiny copies are slowed by their launch: what a larger one reached, a smaller one can."""
    slow_start = peaks(
        bandwidth=[
            Bandwidth(footprint_bytes=10**6, bytes_per_second=1e9),
            Bandwidth(footprint_bytes=10**7, bytes_per_second=1e11),
        ]
    )
    assert roofline.move_seconds(slow_start, 10**6) == pytest.approx(1e-5)


def test_weights_that_are_read_once_share_one_cache() -> None:
    """Each of ten products fits the cache; all ten do not, and a decode step reads all of them."""
    step = [
        costing("decode", 0, read_bytes=10**6, launches=1, fresh_bytes=10**6) for _ in range(10)
    ]
    floor = roofline.part_seconds(peaks(), step, "float32")["decode", "layer", 0]
    assert floor == pytest.approx(1e-6 + 9e-5), "and not ten times the first megabyte"
    again = [msgspec.structs.replace(work, fresh_bytes=0) for work in step]
    floor = roofline.part_seconds(peaks(), again, "float32")["decode", "layer", 0]
    assert floor == pytest.approx(1e-5), "what others of the part have touched may lie in a cache"


def test_an_operator_takes_the_longer_of_computing_and_moving_and_its_launches() -> None:
    device = peaks(kernel_seconds=1e-6)
    computing = costing(flops=4 * 10**9, causal_flops=2 * 10**9, read_bytes=10**6, launches=3)
    assert roofline.work_seconds(device, computing, "float32") == pytest.approx(2e-3 + 3e-6)
    moving = costing(causal_flops=10**6, read_bytes=10**7, written_bytes=10**7, launches=2)
    each = 1e-6 + 9e-5
    assert roofline.work_seconds(device, moving, "float32") == pytest.approx(2 * each + 2e-6)
    assert roofline.work_seconds(device, moving, "float64") is None


def test_a_request_is_bounded_by_its_phases_or_by_the_host_that_launches_it() -> None:
    device = peaks(kernel_seconds=1e-6, launch_seconds=1e-4)
    cost = [costing(causal_flops=10**9, launches=10), costing("decode", None, launches=10)]
    assert roofline.phase_seconds(device, cost, "float32") == pytest.approx(
        {"prefill": 1e-3 + 1e-5, "decode": 1e-5}
    )
    eager = roofline.request_seconds(device, cost, "float32", eager=True)
    assert eager == pytest.approx(20 * 1e-4)
    captured = roofline.request_seconds(device, cost, "float32", eager=False)
    assert captured == pytest.approx(1e-3 + 2e-5)
    assert roofline.request_seconds(device, cost, "int8", eager=True) is None


def test_the_table_holds_measured_time_against_floor_and_promise() -> None:
    cells = [
        cell("vanilla", "rows", 1.0, 0, cost=[work("prefill", "layer", 0, "ffn", 10**11)]),
        cell("fastv", "rows", 0.8, 0, cost=[work("prefill", "layer", 0, "ffn", 10**10)]),
    ]
    run = record(*cells)
    run.peaks = peaks(bandwidth=[Bandwidth(footprint_bytes=0, bytes_per_second=1e15)])
    headings, lines = headings_and_lines(roofline_table(run, [run.cells[1]]))
    assert headings[-2:] == ["floor\nms", "measured\nover floor"]
    # prefill takes all but 0.3 s of the made requests, 0.1 s of it beside its layer
    assert lines == [
        ["vanilla", "prefill", "700.0", "700.0", "100.0", "7.00x"],
        ["fastv with rows", "prefill", "500.0", "160.0", "10.00", "50.00x"],
    ]
    assert not any("floor" in warning for warning in caveats.warnings(run))
    run.peaks.flops_per_second["float32"] = 1e11
    (warning,) = [line for line in caveats.warnings(run) if "floor" in line]
    assert (
        "1 phases were faster than their floor, most of all prefill of vanilla (70 % of it)"
        in warning
    )


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H200", "H200 SXM"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM 80 GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 SXM 40 GB"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA A100 80GB PCIe", None),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA Tesla K80", None),
        ("AMD EPYC", None),
    ],
)
def test_a_gpu_is_recognised_by_the_name_its_driver_reports(device: str, name: str | None) -> None:
    found = datasheet_of(device)
    assert (found.device if found else None) == name


@pytest.mark.parametrize(
    ("device", "told"),
    [("NVIDIA H100 80GB HBM3", 85_017_493_504), ("NVIDIA H100 80GB HBM3", 85_520_809_984)],
)
def test_no_card_has_more_memory_than_its_datasheet_says(device: str, told: int) -> None:
    """told: bytes of which torch, and NVML, speak on that card."""
    sheet = datasheet_of(device)
    assert sheet is not None
    assert sheet.memory_bytes is not None
    assert 0.98 < told / sheet.memory_bytes <= 1


@pytest.mark.parametrize("sheet", DATASHEETS.values(), ids=lambda sheet: sheet.name)
def test_memory_is_in_binary_units_on_every_card(sheet: Sheet) -> None:
    found = datasheet_of(" ".join(sheet.words))
    assert found is not None
    assert found.memory_bytes == sheet.memory * 2**30


@pytest.mark.parametrize("name", list(DATASHEETS))
def test_datasheets_are_in_si_units(name: str) -> None:
    sheet = datasheet(name)
    assert 1e13 < sheet.flops_per_second["float32"] < sheet.flops_per_second["bfloat16"] < 1e16
    assert 1e11 < sheet.bandwidth[0].bytes_per_second < 1e13
    assert sheet.memory_bytes is not None
    assert 1e10 < sheet.memory_bytes < 1e12
    assert sheet.source
