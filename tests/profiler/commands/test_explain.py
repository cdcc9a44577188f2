"""Explanations of real runs: methods of known cost, the record, and the command."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from micro_models import MICRO, SIZE, skip_unsupported

import tpprof
from tpprof.methods.contract import registry
from tpprof.methods.contract.plugins import load_plugins
from tpprof.profiler import cli
from tpprof.profiler.machine import calibration
from tpprof.profiler.models.model import Model
from tpprof.profiler.run.comparison import Comparison
from tpprof.reports.analysis.counterparts import counterparts_of
from tpprof.reports.analysis.explanation import Explanation, explain
from tpprof.reports.analysis.summary import rows
from tpprof.reports.record.files import load
from tpprof.reports.record.schema import Cell, Record
from tpprof.reports.record.spec import RunSpec

PLUGGED = Path(__file__).parents[2] / "misbehaving_plugin.py"


@pytest.fixture(autouse=True)
def plugged() -> Iterator[None]:
    """The misbehaving methods, registered for this test alone."""
    registry.names()  # finds those of the folder first
    before = dict(registry._registry)
    load_plugins([str(PLUGGED)])
    yield
    for name in set(registry._registry) - set(before):
        del registry._registry[name]
    for module in [name for name in sys.modules if name.startswith("tpprof_plugin_")]:
        del sys.modules[module]


def compared(model: Model, *specs: str, rounds: int = 6, **options: object) -> Record:
    spec = RunSpec.of(methods=specs, image_size=SIZE, new_tokens=3, rounds=rounds, **options)
    return Comparison(spec, model=model).run()


def told_of(record: Record, cell: Cell) -> tuple[Explanation, dict[str, float]]:
    told = explain(record, cell)
    assert told is not None
    parts = {part.name: part.seconds for part in told.contributions}
    gap = told.measured_seconds - told.claimed_seconds
    assert math.fsum(parts.values()) == pytest.approx(gap)
    return told, parts


def test_time_burnt_in_a_selection_is_found_in_the_selection(llava_next: Model) -> None:
    record = compared(llava_next, "burn:seconds=0.02")
    told, _ = told_of(record, record.cells[1])
    most = max(told.causes, key=lambda part: part.seconds)
    assert most.name == "selection", "it spins there for 20 ms"


def test_extra_maps_are_found_in_the_maps(llava_next: Model) -> None:
    record = compared(llava_next, "look")
    vanilla, maps, by_rows = record.cells
    beside = counterparts_of(record, maps)
    assert beside is not None
    layers = range(record.model.layers - 1)
    assert beside.mapped == {("prefill", part, n) for part in ("layer", "score") for n in layers}
    _, parts = told_of(record, maps)
    own, cheap = (
        [
            sum(
                seconds
                for part, seconds in zip(cell.parts, sample.parts, strict=True)
                if part.part in ("layer", "score") and part.index != record.model.layers - 1
            )
            for sample in cell.samples
        ]
        for cell in (maps, by_rows)
    )
    whole = [sample.latency for sample in vanilla.samples]
    shares = sorted((o - c) / t for o, c, t in zip(own, cheap, whole, strict=True))
    row = next(row for row in rows(record) if row.cell is maps)
    assert row.latency is not None
    assert row.speedup is not None
    paired = row.latency.value * row.speedup.value  # vanilla's time, as it was paired
    assert parts["attention maps"] == pytest.approx(sum(shares[1:5]) / 4 * paired)
    assert "attention maps" not in told_of(record, by_rows)[1]
    assert explain(record, vanilla) is None


@pytest.mark.parametrize("policies", [["rows"], ["maps", "published"], ["rows", "published"]])
def test_every_method_is_explained_under_every_policy(model: Model, policies: list[str]) -> None:
    skip_unsupported(model, "mustdrop")
    specs = ["fastv", "sparsevlm", "mustdrop", "pooling"]
    record = compared(model, *specs, keep="1/2", attention=policies)
    for cell in record.cells[1:]:
        told, parts = told_of(record, cell)
        assert not cell.error
        assert "remainder" in parts
        assert all(math.isfinite(seconds) for seconds in parts.values())
        assert ("released code" in parts) == (cell.attention == "published")
        assert ("attention maps" in parts) == (cell.attention == "maps" and "rows" in policies)
        assert told.promised_seconds > 0


def test_a_saved_run_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.json"
    command(
        monkeypatch,
        "compare",
        "fastv",
        "--model",
        "tiny-llava",
        "--visual-tokens",
        "64",
        "--rounds",
        "6",
        "--out",
        str(path),
    )
    record = load(path)
    assert record.peaks is not None
    assert record.peaks.source == "measured"
    assert all(explain(record, cell) is not None for cell in record.cells[1:])
    assert f"where the time went: tpprof explain {path}" in capsys.readouterr().err
    command(monkeypatch, "explain", str(path), "fastv", "--format", "json")
    cells = json.loads(capsys.readouterr().out)
    names = {part["part"] for part in cells[0]["contributions"]}
    assert names >= {"decode steps", "attention maps", "remainder"}
    assert cells[0]["floor_seconds"]["prefill"] > 0
    assert all(layer["floor"] > 0 for layer in cells[0]["layers"])
    command(monkeypatch, "explain", str(path))
    shown = capsys.readouterr().out
    assert "side by side" in shown
    assert "against the roofline of" in shown
    command(monkeypatch, "explain", str(path), "--format", "markdown")
    assert "| promised |" in capsys.readouterr().out
    command(monkeypatch, "explain", str(path), "--format", "csv")
    assert "attention maps" in capsys.readouterr().out
    command(monkeypatch, "explain", str(path), "fastw", code=2)
    assert "did you mean fastv?" in capsys.readouterr().err


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str, code: int = 0) -> None:
    monkeypatch.setattr(sys, "argv", ["tpprof", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == code


@pytest.mark.gpu
def test_a_forced_wait_per_layer_is_waiting_for_the_host() -> None:
    model = tpprof.load(MICRO["llava-next"], device="cuda", dtype="bfloat16")
    record = compared(model, "wait", "burn:seconds=0.01", rounds=10)
    wait, burn = (told_of(record, cell)[1] for cell in record.cells[1:])
    syncs = sum(part.syncs or 0 for part in record.cells[1].activity if part.phase == "prefill")
    assert syncs >= record.model.layers - 1
    # After each wait the next layer is launched anew: most of what waiting costs is in the layers.
    slower = statistics.median(s.latency for s in record.cells[1].samples) - statistics.median(
        s.latency for s in record.cells[0].samples
    )
    assert wait["waiting for the host"] > slower / 2
    assert wait["waiting for the host"] > wait["selection"]
    assert burn["selection"] >= 0.01


@pytest.mark.gpu
def test_no_phase_beats_its_floor_on_a_gpu() -> None:
    device = torch.device("cuda")
    calibration.calibrate(device)
    model = tpprof.load("tiny", device="cuda", dtype="bfloat16")
    record = compared(model, "fastv", "sparsevlm", rounds=10)
    assert record.peaks is not None
    from tpprof.reports.analysis.phases import phase_rows

    beaten = [row for row in phase_rows(record) if row.over_floor and row.over_floor < 1]
    assert not beaten
