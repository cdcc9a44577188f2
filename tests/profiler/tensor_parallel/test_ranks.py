"""Tensor parallelism on CPU: two processes over gloo against one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import spread_models
from micro_models import MICRO

from tpprof import methods
from tpprof.methods.contract.errors import InputError
from tpprof.profiler.models.registry import known_shapes
from tpprof.profiler.run.recording import measure
from tpprof.profiler.tensor_parallel import launch
from tpprof.profiler.tensor_parallel.launch import require_alone
from tpprof.reports.record.schema import Record
from tpprof.reports.record.spec import OptionError, RunSpec

PLUGIN = str(Path(spread_models.__file__).with_name("misbehaving_plugin.py"))
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> spread_models.Found:
    out = tmp_path_factory.mktemp("ranks") / "found.json"
    paths = [str(Path(spread_models.__file__).parent), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, *TORCHRUN, spread_models.__file__, str(out)]
    subprocess.run(command, env=environment, check=True, timeout=900)
    return msgspec.json.decode(out.read_bytes(), type=spread_models.Found)


@pytest.mark.parametrize("architecture", MICRO)
def test_logits_tokens_and_caches_are_those_of_one_process(
    found: spread_models.Found, architecture: str
) -> None:
    if architecture in found.refused:
        assert "no tensor-parallel plan" in found.refused[architecture]
        pytest.skip(found.refused[architecture])
    told = found.differences[architecture]
    assert {spec.split()[0] for spec in told} == set(methods.names())
    wrong = {spec: text for spec, text in told.items() if text and "unsupported" not in text}
    assert wrong == {}


def test_the_plan_covers_all_but_qwen3_vl(found: spread_models.Found) -> None:
    assert set(found.differences) >= set(MICRO) - {"qwen3-vl"}


def test_ranks_that_decide_apart_are_told(found: spread_models.Found) -> None:
    assert found.apart == ["others of the same sums", "fewer", "all, on one"]


def test_what_is_wrong_on_one_rank_is_told(found: spread_models.Found) -> None:
    assert found.wrong == "rank 1: it has no room"


def test_a_comparison_tells_of_each_rank(found: spread_models.Found) -> None:
    record = found.record
    assert isinstance(record, Record)
    vanilla, pruned = record.cells
    for cell in record.cells:
        assert not cell.error
        for sample in cell.samples:
            assert sample.latency == max(sample.ranks)
            assert len(sample.ranks) == 2
        first, second = cell.ranks
        assert first.kv_bytes_prefill == second.kv_bytes_prefill
        assert cell.kv_bytes_prefill == [2 * layer for layer in first.kv_bytes_prefill]
        assert None not in (first.peak_bytes, second.peak_bytes)
        for phase in ("prefill", "head"):  # the others hold rotary tables with some versions
            planned = sum(one.flops for one in cell.cost if one.phase == phase)
            assert cell.counted_flops[phase] == planned
        assert "several ranks" in cell.missing["lengths"]
    assert sum(pruned.kv_bytes_prefill) < sum(vanilla.kv_bytes_prefill)


def test_a_rank_that_dies_ends_its_cell(tmp_path: Path) -> None:
    spec = RunSpec.of(
        methods=["random:keep=4", "die:rank=1"], model="tiny-qwen2-vl", device="cpu", passes=(),
        visual_tokens=8, text_tokens=(2, 2), rounds=1, plugin=[PLUGIN], tensor_parallel=2,
    )  # fmt: skip
    outcome = measure(spec, tmp_path / "run.json", lambda label, done, total: None)
    vanilla, random, died = outcome.record.cells
    assert died.error == "rank 1 of 2: process ended by SIGKILL (out of memory?)"
    assert (vanilla.error, random.error) == ("", "")
    assert vanilla.warmups
    assert outcome.code == 1


def test_a_rank_that_the_launcher_ends_was_not_stopped_by_the_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = r"import sys; print('{\"path\": \"x.json\"}'); print('{\"code\": 143}')"
    script = f"{steps}; print('rank 1 of 2: it died', file=sys.stderr)"
    monkeypatch.setattr(launch, "python", lambda main: [sys.executable, "-c", script])
    spec = RunSpec.of(methods=["fastv"], model="tiny-qwen2-vl", tensor_parallel=2)
    ended = launch.on_ranks(launch.RankTask(spec, "x.json"), lambda *step: None)
    assert (ended.code, ended.lost) == (None, "rank 1 of 2: it died")


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"model": "tiny"}, "tiny has 5 heads of queries, which 2 ranks cannot share evenly"),
        ({"runtime": ["graph"]}, "tensor_parallel runs eagerly"),
        ({"isolate": True}, "tensor_parallel and isolate exclude each other"),
        ({"device": "cuda:1"}, "tensor_parallel takes the first GPUs"),
    ],
)
def test_what_ranks_cannot_do_is_refused_before_they_start(
    options: dict[str, object], wrong: str
) -> None:
    spec = RunSpec.of(**{"methods": ["fastv"], "tensor_parallel": 2, **options})
    with pytest.raises((InputError, OptionError), match=wrong):
        require_alone(spec)


def test_a_share_is_of_heads_and_ffn_alone() -> None:
    whole = known_shapes()["qwen2-vl-72b"]
    half = whole.share(2)
    assert (half.text.heads, half.text.kv_heads, half.text.head_dim) == (32, 4, 128)
    assert half.vision == whole.vision
    layers = whole.parameters - 2 * whole.text.vocabulary * whole.text.hidden
    assert whole.parameters / 2 < half.parameters < whole.parameters - layers * 0.4
