"""Calibration: what is measured, where it is kept, and by which name it is found again."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch

from tpprof.methods.contract.errors import InputError
from tpprof.profiler.machine import calibration
from tpprof.profiler.machine.datasheets import DATASHEETS
from tpprof.reports.analysis import roofline
from tpprof.reports.record.schema import Peaks

CPU = torch.device("cpu")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A calibration of a fraction of a second, kept in a folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(calibration, "SECONDS", 0.0)
    monkeypatch.setattr(calibration, "SIDES", {"cpu": (16, 64)})
    monkeypatch.setattr(calibration, "FOOTPRINTS", {"cpu": (2**12, 2**16)})
    return tmp_path


def test_a_calibration_is_kept_and_found_again(quick: Path) -> None:
    assert calibration.cached(CPU) is None
    peaks = calibration.calibrate(CPU)
    assert peaks.source == "measured"
    assert set(peaks.flops_per_second) == {"float32", "bfloat16", "float16"}
    assert min(peaks.flops_per_second.values()) > 0
    assert [level.footprint_bytes for level in peaks.bandwidth] == [2**12, 2**16]
    assert min(level.bytes_per_second for level in peaks.bandwidth) > 0
    assert peaks.kernel_seconds == peaks.launch_seconds > 0
    assert peaks.threads == torch.get_num_threads()
    assert calibration.cached(CPU) == peaks
    assert calibration.named("cpu") == calibration.named(peaks.device) == peaks
    assert [path.parent.parent for path in quick.rglob("*.json")] == [quick / "tpprof"]


def test_other_threads_are_another_device(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calibration.calibrate(CPU)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 96)
    assert calibration.cached(CPU) is None


def test_a_damaged_calibration_is_none(quick: Path) -> None:
    calibration.calibrate(CPU)
    (path,) = quick.rglob("*.json")
    path.write_text(path.read_text()[:50])
    assert calibration.cached(CPU) is None
    with pytest.raises(InputError, match="run `tpprof calibrate --device cpu`"):
        calibration.named("cpu")


def test_a_busy_machine_does_not_spoil_an_earlier_calibration(quick: Path) -> None:
    first = calibration.calibrate(CPU)
    better = {dtype: 2 * rate for dtype, rate in first.flops_per_second.items()}
    first.flops_per_second = dict(better)
    first.kernel_seconds = first.launch_seconds = 1e-12
    first.bandwidth[0].bytes_per_second = 1e15
    calibration.calibration_file(CPU).write_bytes(msgspec.json.encode(first))
    again = calibration.calibrate(CPU)
    assert again.flops_per_second == better
    assert again.kernel_seconds == again.launch_seconds == 1e-12
    assert again.bandwidth[0].bytes_per_second == 1e15
    assert again.bandwidth[1].bytes_per_second >= first.bandwidth[1].bytes_per_second


def test_a_folder_that_cannot_be_written_costs_no_calibration(
    quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (quick / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(quick / "file"))
    peaks = calibration.calibrate(CPU)
    assert peaks.flops_per_second["float32"] > 0
    assert any("not kept for later runs" in note for note in peaks.notes)
    assert calibration.cached(CPU) is None


def test_names_are_datasheets_and_what_was_measured(quick: Path) -> None:
    assert calibration.named("H100").device == "H100 SXM"
    with pytest.raises(InputError, match=r"did you mean h100\?"):
        calibration.named("h10")
    with pytest.raises(InputError, match=", ".join(DATASHEETS)):
        calibration.named("cuda")
    with pytest.raises(InputError, match=", ".join(DATASHEETS)):
        calibration.named("abacus")


def test_a_device_that_was_measured_twice_is_named_once(quick: Path) -> None:
    first = calibration.calibrate(CPU)
    content = msgspec.json.encode(first)
    calibration.calibration_file(CPU).with_name("with-other-threads.json").write_bytes(content)
    with pytest.raises(InputError) as refused:
        calibration.named("abacus")
    assert str(refused.value).count("(measured)") == 1


def test_the_fastest_batch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a made-up clock: the first call is slow, one batch is disturbed."""
    spent = iter([5.0, *[1.0] * 4000])
    clock = SimpleNamespace(now=0.0)

    def call() -> None:
        clock.now += 0.001 * next(spent)

    monkeypatch.setattr(calibration, "now", lambda: clock.now)
    monkeypatch.setattr(calibration, "wait_for", lambda device: None)
    assert calibration._best(CPU, call, calibration._called) == pytest.approx(0.001)


def test_a_dtype_that_the_device_refuses_is_noted_and_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise RuntimeError("no such kernel\nand more")

    monkeypatch.setattr(torch, "mm", refuse)
    notes: list[str] = []
    assert calibration._product_rate(CPU, "float16", calibration._called, notes) == 0.0
    assert notes[0] == "float16 512x512x512: no such kernel"


def test_the_command_prints_and_keeps_it(quick: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tpprof.profiler.commands.machine import calibrate_device
    from tpprof.profiler.commands.options import Format

    calibrate_device("cpu", Format.json)
    assert json.loads(capsys.readouterr().out)["source"] == "measured"
    for form in (Format.table, Format.csv, Format.markdown):
        calibrate_device("cpu", form)
        assert "float32" in capsys.readouterr().out
    assert calibration.cached(CPU) is not None


@pytest.mark.gpu
def test_a_gpu_is_calibrated_without_its_launches() -> None:
    peaks: Peaks = calibration.calibrate(torch.device("cuda"))
    assert peaks.threads is None
    assert peaks.flops_per_second["bfloat16"] > peaks.flops_per_second["float32"]
    assert peaks.kernel_seconds < peaks.launch_seconds
    assert roofline.move_seconds(peaks, 2**30) > 2**30 / 2e13
    assert peaks.memory_bytes == torch.cuda.get_device_properties(0).total_memory
