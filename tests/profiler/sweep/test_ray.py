"""Blocks over a local Ray cluster of two workers: the same as without, and one worker that dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tpprof.methods import InputError
from tpprof.profiler.sweep import on_ray
from tpprof.profiler.sweep.expansion import expand
from tpprof.profiler.sweep.on_ray import Cluster
from tpprof.profiler.sweep.run import begin, run
from tpprof.reports.record.spec import RunSpec
from tpprof.reports.sweep.grid import Grid, Sweep, load
from tpprof.reports.sweep.rows import grid_rows


def grid() -> Grid:
    spec = RunSpec.of(
        methods=["fastv"], model="tiny-llava", device="cpu", visual_tokens=16, text_tokens=(1, 1),
        attention=["rows"], rounds=2, passes=["none"],
    )  # fmt: skip
    return expand(spec, {"batch_size": (1, 2)})


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    ray = pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    address = ray.get_runtime_context().gcs_address
    # The driver of a sweep joins this one, and leaves it.
    shutdown, ray.shutdown = ray.shutdown, lambda: None
    init, ray.init = ray.init, lambda **_: None
    yield Cluster(address, per_host=2)
    ray.init, ray.shutdown = init, shutdown
    ray.shutdown()


def swept(folder: Path, cluster: Cluster | None) -> tuple[Sweep, int]:
    wanted = grid()
    journal = begin(wanted, folder, resume=False)
    return run(wanted, folder, journal, lambda *step: None, cluster=cluster)


def counted(sweep: Sweep) -> list[object]:
    return [
        (row.block, row.method, row.tokens, row.row and row.row.flops, row.reason)
        for row in grid_rows(sweep)
    ]


def test_the_same_cells_and_counts_as_without(cluster: Cluster, tmp_path: Path) -> None:
    spread, code = swept(tmp_path / "ray", cluster)
    assert code == 0
    alone, _ = swept(tmp_path / "alone", None)
    assert counted(spread) == counted(alone)
    pids = [one.processes[0].pid for one in spread.records if one]
    assert len(set(pids)) == 2


def test_a_worker_that_dies_is_one_failed_comparison(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = on_ray._measure

    def dying(given: bytes, begun: bytes) -> tuple[int, str, bytes]:
        if b'"batch_size":2' in given:
            os.kill(os.getpid(), signal.SIGKILL)
        return measure(given, begun)

    monkeypatch.setattr(on_ray, "_measure", dying)
    _, code = swept(tmp_path, cluster)
    found = load(tmp_path)
    assert code == 1
    assert found.records[0] is not None
    assert found.records[0].complete
    assert found.records[1] is None
    assert found.reasons[1].startswith("its worker ended: ")


def test_without_ray_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'tpprof\[ray\]'"):
        next(Cluster("local").spread([], b""))
