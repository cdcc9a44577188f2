"""What no memory holds is refused before it is asked for, with what it would take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tpprof
from tpprof.methods import InputError
from tpprof.profiler.models import device_memory, load
from tpprof.profiler.models.errors import ModelError
from tpprof.profiler.models.model import Model
from tpprof.profiler.run import comparison, memory_limit
from tpprof.reports.record.spec import Workload


@pytest.mark.parametrize(
    "options",
    [
        {"visual_tokens": 16_000_000},
        {"visual_tokens": 16, "text_tokens": (5, 16_000_000)},
        {"visual_tokens": 64, "batch_size": 65_536, "text_tokens": (5, 4_000)},
        {"image_size": (13_000, 13_000), "batch_size": 60_000},
        {"visual_tokens": 64, "batch_size": 8_192, "new_tokens": 1_000_000},
    ],
    ids=str,
)
def test_what_no_memory_holds_is_refused_first(
    options: dict[str, Any], model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_limit, "device_memory", lambda device: 16 * 2**30)
    monkeypatch.setattr(comparison, "Preparation", lambda *_: pytest.fail("it was prepared"))
    told = r"needs about [\d,]+ GiB.* has 16 GiB"
    if model.shape.architecture.bounded:  # in positions, which is told first
        told += r"|a request of [\d,]+ positions: "
    with pytest.raises(InputError, match=told) as refused:
        tpprof.compare(["fastv"], model=model, rounds=1, **options)
    assert "\n" not in str(refused.value)


def test_what_fits_is_not(model: Model) -> None:
    memory_limit.require_room(model, Workload(visual_tokens=64, text_tokens=(3, 4)))


@pytest.mark.parametrize(
    ("files", "limits"),
    [
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "4096\n"}, [4096]),
        (
            {
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": "8192\n",
            },
            [8192],
        ),
        (
            {
                "proc/self/cgroup": "9:cpu,cpuacct:/\n5:memory:/a\n",
                "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "1024\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            [1024, 9223372036854771712],
        ),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "max\n"}, []),
        ({}, []),
    ],
    ids=["an outer group", "a container", "version 1", "no limit", "no groups"],
)
def test_what_a_container_may_take(
    files: dict[str, str], limits: list[int], tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert device_memory.cgroup_limits(tmp_path) == limits


def test_weights_that_no_memory_holds_are_refused_before_they_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device_memory, "device_memory", lambda device: 2**30)
    monkeypatch.setattr(load, "transformers_class", lambda name: pytest.fail("it was made"))
    with pytest.raises(ModelError) as refused:
        load.load("llava-next-7b", device="cpu", dtype="float32")
    assert str(refused.value) == (
        "llava-next-7b needs 26.3 GiB for its weights in float32, and cpu has 1.0 GiB: choose a "
        "smaller --model or --dtype"
    )


def test_weights_that_find_no_room_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        @staticmethod
        def _from_config(*given: object, **options: object) -> None:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] can't allocate memory: you ...")

    monkeypatch.setattr(load, "transformers_class", lambda name: Full)
    with pytest.raises(ModelError, match="cpu has not that much free: choose a smaller --model"):
        load.load("tiny-llava", device="cpu")


def test_the_least_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_memory, "cgroup_limits", lambda: [2**20, 2**62])
    assert device_memory.device_memory(torch.device("cpu")) == 2**20
