"""Blocks over a local Ray cluster of two workers: the same as without, and one worker that dies."""

from __future__ import annotations

import gc
import os
import signal
import sys
import tracemalloc
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tpprof.methods import InputError
from tpprof.profiler.sweep import on_ray
from tpprof.profiler.sweep.expansion import expand, plan
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

    def dying(given: bytes, mark: str) -> tuple[int, str, bytes]:
        if b'"batch_size":2' in given:
            os.kill(os.getpid(), signal.SIGKILL)
        return measure(given, mark)

    monkeypatch.setattr(on_ray, "_measure", dying)
    _, code = swept(tmp_path, cluster)
    found = load(tmp_path)
    assert code == 1
    assert found.records[0] is not None
    assert found.records[0].complete
    assert found.records[1] is None
    assert found.reasons[1].startswith("its worker ended: ")


def test_what_no_host_has_gpus_for_is_a_reason_and_no_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", CountingRay())
    spec = RunSpec.of(methods=["random:keep=4"], model="tiny-qwen2-vl", tensor_parallel=4)
    wanted = expand(spec, {"new_tokens": (1, 2)})
    journal = begin(wanted, tmp_path, resume=False)
    run(wanted, tmp_path, journal, lambda *step: None, cluster=Cluster("here", per_host=1))
    told = "it wants 4 GPUs of one host, and the largest here has 2"
    assert list(load(tmp_path).reasons.values()) == [told, told]


class CountingRay(types.ModuleType):
    """In the place of Ray, with one host: runs nothing, and counts the handles that it is asked
    about and the bytes that it is given."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.asked_about = self.given = 0
        self.exceptions = types.SimpleNamespace(RayError=RuntimeError)

    def init(self, **_: object) -> None: ...

    shutdown = init

    def nodes(self) -> list[dict[str, object]]:
        return [{"Alive": True, "Resources": {"CPU": 2.0, "GPU": 2.0}}]

    def remote(self, *_: object, **__: object) -> Any:
        def call(*given: Any) -> object:
            self.given += sum(map(len, given))
            return object()

        placed = types.SimpleNamespace(remote=call)
        return lambda function: types.SimpleNamespace(options=lambda **_: placed)

    def wait(self, handles: list[object]) -> tuple[list[object], list[object]]:
        self.asked_about += len(handles)
        return handles[:1], handles[1:]

    def get(self, handle: object) -> tuple[int, str, bytes]:
        return 0, "planned, not measured", b""


def drive(count: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[float, ...]:
    """What the driver takes for so many blocks of one cell each, of which none is measured: calls
    of functions, peak bytes, handles asked about, bytes given to workers."""
    ray, calls = CountingRay(), 0
    monkeypatch.setitem(sys.modules, "ray", ray)
    spec = RunSpec.of(methods=["random:keep=4"], model="tiny-llava", device="cpu", visual_tokens=16)
    wanted = expand(spec, {"new_tokens": tuple(range(1, count + 1))})
    plan(wanted)
    assert sum(len(block.cells) for block in wanted.blocks) == count
    journal = begin(wanted, folder, resume=False)

    def called(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    gc.collect()
    tracemalloc.start()
    sys.setprofile(called)
    try:
        found, _ = run(wanted, folder, journal, lambda *step: None, cluster=Cluster("local"))
    finally:
        sys.setprofile(None)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert len(found.reasons) == count
    return calls, peak, ray.asked_about, ray.given


def test_the_driver_takes_as_much_for_each_of_200_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive(5, tmp_path / "first", monkeypatch)  # what is imported and cached
    at = {n: drive(n, tmp_path / str(n), monkeypatch) for n in (50, 100, 200)}
    for what, few, some, many in zip(
        ("calls", "peak", "handles", "bytes"), at[50], at[100], at[200], strict=True
    ):
        growth = (many - some) / (some - few)  # 2 where it is linear, 4 where it is quadratic
        assert 1.6 < growth < 2.4, (what, few, some, many)


def test_without_ray_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'tpprof\[ray\]'"):
        next(Cluster("local").spread([], b""))
