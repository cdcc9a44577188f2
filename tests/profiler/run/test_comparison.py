"""The main job on micro models: cells, rounds, failures, interruption."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from micro_models import SIZE, skip_unsupported

import tpprof
from tpprof import methods
from tpprof.methods.contract import registry
from tpprof.methods.contract.errors import InputError
from tpprof.methods.contract.request import Request
from tpprof.methods.contract.view import View
from tpprof.methods.engine.context import Lap
from tpprof.methods.engine.run import Trace
from tpprof.profiler.meters.clock import Stopwatch
from tpprof.profiler.models.model import Model
from tpprof.profiler.run.comparison import Comparison
from tpprof.profiler.run.engine_cell import EngineCell
from tpprof.reports.analysis.summary import rows
from tpprof.reports.record.files import Begun, journal_of, load
from tpprof.reports.record.journal import Journal
from tpprof.reports.record.schema import Record
from tpprof.reports.record.spec import RunSpec

REQUEST = {"image_size": SIZE, "new_tokens": 3}


@pytest.fixture
def broken() -> Iterator[str]:
    """A registered method that raises when it is asked."""

    @methods.register("broken")
    @dataclass(frozen=True)
    class Broken(methods.Method):
        """Raise."""

        def plan(self, request: Request) -> methods.Plan:
            return methods.Plan([methods.Stage(methods.Entering(2), 10)])

        def decide(self, view: View, stage: methods.Stage) -> methods.Keep | None:
            raise RuntimeError("no idea\nmore lines")

    yield "broken"
    del registry._registry["broken"]


def comparison(model: Model, *specs: str, **options: object) -> Comparison:
    given = {"keep": "1/2", "max_seconds": None, "min_rounds": 2, "max_rounds": 2, **options}
    return Comparison(RunSpec.of(methods=specs, **REQUEST, **given), model=model)


def fixed(count: int) -> dict[str, object]:
    return {"min_rounds": count, "max_rounds": count}


def shown(record: Record) -> list[tuple[str, str]]:
    return [(cell.name, cell.attention) for cell in record.cells]


def test_vanilla_comes_first_and_attention_based_methods_twice(model: Model) -> None:
    skip_unsupported(model, "mustdrop")
    record = comparison(model, "random", "fastv", "mustdrop", "vanilla").run()
    assert shown(record) == [
        ("vanilla", "rows"),
        ("random", "rows"),
        ("fastv", "maps"),
        ("fastv", "rows"),
        ("mustdrop", "maps"),
        ("mustdrop", "rows"),
    ]


def test_a_record_holds_every_sample_and_count(model: Model) -> None:
    run = comparison(model, "fastv", "sparsevlm", attention=["published"], **fixed(4))
    record = run.run()
    assert record.complete
    assert record.request.visual == run.prepare.request.visual
    for cell in record.cells:
        assert [sample.round for sample in cell.samples] == [0, 1, 2, 3]
        assert all(len(sample.parts) == len(cell.parts) for sample in cell.samples)
        assert all(sample.latency > 0 for sample in cell.samples)
        assert cell.generated_tokens == 3
        assert len(cell.visual_per_layer) == run.prepare.request.layers
        assert sum(1 for part in cell.parts if part.part == "layer") == run.prepare.request.layers
        assert [part.index for part in cell.parts if part.phase == "decode"] == [0, 1]
        assert sum(item.flops for item in cell.cost) > 0
    phases = {part.phase for part in record.cells[1].parts}
    assert phases == {"preprocess", "transfer", "vision", "embed", "prefill", "head", "decode"}
    assert {part.part for part in record.cells[1].parts if part.phase == "prefill"} == {
        "layer",
        "score",
        "select",
    }


def test_the_order_of_methods_turns(model: Model) -> None:
    record = comparison(model, "random", "pooling", **fixed(6)).run()
    for cell in record.cells:
        assert {sample.turn for sample in cell.samples} == {0, 1, 2}
        assert sum(sample.turn for sample in cell.samples) == 6


def test_parts_account_for_the_latency(model: Model) -> None:
    record = comparison(model, "fastv", **fixed(6)).run()
    for row in rows(record):
        assert row.parts_sum is not None
        assert 0.9 < row.parts_sum.value <= 1.0


def test_a_budget_that_cannot_be_met_is_refused_before_measuring(model: Model) -> None:
    with pytest.raises(methods.BudgetError, match="fastv:keep=999: keep=999 means 999"):
        comparison(model, "fastv", keep="999")


def test_keep_sets_every_budget(model: Model) -> None:
    record = comparison(model, "random", "fastv", keep="7").run()
    assert [cell.visual_per_layer[-1] for cell in record.cells[1:]] == [7, 7, 7]
    assert record.cells[1].method == "random:keep=7"


def test_equalized_methods_share_one_layer_mean(model: Model) -> None:
    record = comparison(model, "random", "sparsevlm", "fastv", equalize=True).run()
    means = [row.visual_mean for row in rows(record)[1:]]
    spread = max(means) - min(means)  # type: ignore[type-var]
    assert spread <= 0.05 * record.request.visual


def test_solved_knobs_are_recorded_and_frozen(llava_next: Model) -> None:
    run = comparison(llava_next, "mustdrop", attention=["rows"], **fixed(3))
    record = run.run()
    solved = record.cells[1].solved
    assert len(solved) == 4
    assert all("threshold" in name for name in solved)


def test_a_method_that_fails_ends_its_own_row(model: Model, broken: str) -> None:
    record = comparison(model, broken, "random").run()
    failed, other = record.cells[1], record.cells[2]
    assert failed.error.startswith("RuntimeError: no idea (test_comparison.py line ")
    assert failed.samples == []
    assert len(other.samples) == 2
    assert len(record.cells[0].samples) == 2


def fail_at(monkeypatch: pytest.MonkeyPatch, name: str, timed: int, error: BaseException) -> None:
    """Let the timed request number `timed` of the cell `name` raise `error`."""
    original, seen = EngineCell.request, [0]

    def request(self: EngineCell, lap: Lap) -> Trace:
        if self.method.name == name and is_timed(lap):
            seen[0] += 1
            if seen[0] == timed:
                raise error
        return original(self, lap)

    monkeypatch.setattr(EngineCell, "request", request)


def is_timed(lap: Lap) -> bool:
    return isinstance(getattr(lap, "__self__", None), Stopwatch)


def test_a_method_that_fails_late_keeps_its_samples(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(monkeypatch, "random", 3, torch.OutOfMemoryError())
    vanilla, random = comparison(model, "random", **fixed(4)).run().cells
    assert random.error == "OutOfMemoryError: no details"
    assert len(random.samples) == 2
    assert len(vanilla.samples) == 4


def test_an_interrupted_run_can_be_taken_up_again(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third round breaks off after vanilla or random; the next run starts a new one."""
    path = tmp_path / "run.json"
    run = comparison(model, "random", **fixed(5))
    run.journal = Journal.begin(journal_of(path), Begun(record=run.record))
    with monkeypatch.context() as patched:
        fail_at(patched, "random", 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run.run()
    run.journal.close()  # as the end of its process does
    earlier = load(path)
    assert not earlier.complete
    taken = [len(cell.samples) for cell in earlier.cells]
    assert taken[1] == 2
    again = comparison(model, "random", **fixed(5))
    again.journal = Journal.begin(journal_of(path), Begun(record=earlier))
    again.adopt(load(path))
    again.run()
    record = load(path)
    assert record.complete
    assert record.cells[1].samples[:2] == earlier.cells[1].samples
    assert [sample.round for sample in record.cells[1].samples] == [0, 1, *range(taken[0], 5)]
    assert [sample.process for sample in record.cells[1].samples[1:]] == [0, *[1] * (5 - taken[0])]
    assert len(record.processes) == 2
    assert all(process.seconds is not None for process in record.processes)


def test_the_journal_says_what_the_record_says(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    run = comparison(model, "fastv", **fixed(3))
    run.journal = Journal.begin(journal_of(path), Begun(record=run.record))
    assert run.run() == load(path)


def test_a_run_that_is_complete_measures_nothing_more(model: Model) -> None:
    first = comparison(model, "random", **fixed(2))
    record = first.run()
    again = comparison(model, "random", **fixed(2))
    again.adopt(record)
    assert again.run().cells == record.cells


def test_rounds_stop_when_time_is_up_but_never_before_six(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {"min_rounds": 6, "max_rounds": 40, "target_ci": 1e-9}
    record = comparison(model, **limits, max_seconds=0.0).run()  # type: ignore[arg-type]
    assert len(record.cells[0].samples) == 6
    ticks = iter(range(1000))
    monkeypatch.setattr("tpprof.profiler.run.rounds.now", lambda: next(ticks))
    record = comparison(model, **limits, max_seconds=20.0).run()  # type: ignore[arg-type]
    assert 6 < len(record.cells[0].samples) <= 30


def test_rounds_stop_when_all_intervals_are_narrow_enough(model: Model) -> None:
    record = comparison(model, "random", target_ci=1.0, min_rounds=1, max_rounds=40).run()
    assert [len(cell.samples) for cell in record.cells] == [6, 6]
    assert all(row.reached for row in rows(record))


def test_a_method_is_measured_twice_under_a_tag(model: Model) -> None:
    record = comparison(model, "vanilla", "vanilla:tag=a", "random:tag=b", "random").run()
    assert [cell.method for cell in record.cells] == [
        "vanilla",
        "vanilla:tag=a",
        "random:tag=b,keep=1/2",
        "random:keep=1/2",
    ]
    twice = rows(record)[1]
    assert twice.flops_share == 1.0
    assert twice.speedup is not None
    with pytest.raises(InputError, match="random:keep=1/2,tag=again"):
        comparison(model, "random", "random")
    with pytest.raises(InputError, match="vanilla:tag=again"):
        comparison(model, "vanilla", "random", "vanilla")


@pytest.mark.parametrize("slower", [1.0, 1.05])
def test_a_slow_down_is_found_with_its_size(
    llava_next: Model, monkeypatch: pytest.MonkeyPatch, slower: float
) -> None:
    """Requests that take simulated time: drift, noise of 2 %, a slow tail, and a known ratio."""
    source, clock, real, traces = random.Random(7), [0], EngineCell.request, {}

    def tell() -> int:
        return clock[0]

    def request(self: EngineCell, lap: Lap) -> Trace:
        if not is_timed(lap):
            traces[self.saved.method] = real(self, lap)
        else:
            seconds = (1 + 0.02 * math.sin(clock[0] / 7e9)) * math.exp(source.gauss(0, 0.02))
            seconds *= (slower if self.method.tag else 1) * (2 if source.random() < 0.03 else 1)
            clock[0] += int(seconds * 1e9)
            lap("prefill", "layer", 0)
        return traces[self.saved.method]

    monkeypatch.setattr("tpprof.profiler.meters.clock.perf_counter_ns", tell)
    monkeypatch.setattr("tpprof.profiler.meters.clock.perf_counter", lambda: tell() * 1e-9)
    monkeypatch.setattr("tpprof.profiler.run.comparison.steady", nullcontext)
    monkeypatch.setattr(EngineCell, "request", request)
    record = comparison(llava_next, "vanilla:tag=slow", target_ci=0.02, max_rounds=200).run()
    vanilla, slow = rows(record)
    assert vanilla.reached
    assert slow.reached
    assert len(slow.cell.samples) < 200, "it stopped by itself"
    gain = slow.speedup
    assert gain is not None
    assert gain.low is not None
    assert gain.high is not None
    assert gain.low <= 1 / slower <= gain.high
    assert (gain.high < 1) == (slower > 1)
    assert gain.high / gain.low < 1.041, "within 2 % either way"


def test_activity_counts_every_phase(model: Model) -> None:
    record = comparison(model, "fastv").run()
    vanilla, maps, by_rows = record.cells
    for cell in record.cells:
        counted = [(part.phase, part.part, part.index) for part in cell.activity]
        assert counted == [(part.phase, part.part, part.index) for part in cell.parts]
    layers = [part.operators for part in vanilla.activity if part.part == "layer"]
    assert len(layers) == record.model.layers
    assert min(layers) > 10
    assert all(activity.launches is None for activity in vanilla.activity), "no GPU, no launches"
    assert maps.kernels.count("softmax map") == 1
    assert len(by_rows.kernels) == record.model.layers
    # The kernel that ran, not the dispatcher that chose it.
    chosen = {"aten::_scaled_dot_product_flash_attention_for_cpu"}
    assert set(by_rows.kernels) == set(vanilla.kernels) == chosen
    flash = {phase: ["flash"] for phase in ("vision", "prefill", "decode")}
    assert vanilla.phase_kernels == by_rows.phase_kernels == flash
    assert maps.phase_kernels == {**flash, "prefill": ["flash", "softmax map"]}


def test_the_api_refuses_what_it_cannot_use(model: Model) -> None:
    inputs = tpprof.inputs(model, image_size=SIZE)
    with pytest.raises(InputError, match=r"must come from tpprof\.inputs"):
        tpprof.forward(model, dict(inputs), "fastv")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least 1"):
        tpprof.forward(model, inputs, "fastv:keep=1/2", new_tokens=0)


def test_one_method_need_not_be_a_list(model: Model) -> None:
    record = tpprof.compare("random", model=model, image_size=SIZE, rounds=1, keep="1/2")
    assert [cell.name for cell in record.cells] == ["vanilla", "random"]


def test_public_compare_takes_the_options_of_the_command_line(model: Model) -> None:
    record = tpprof.compare(
        ["random"], model=model, image_size=SIZE, rounds=1, keep=0.5, new_tokens=1
    )
    assert record.cells[1].visual_per_layer[-1] == round(record.request.visual / 2)
    assert record.spec.workload.new_tokens == 1
    assert rows(record)[1].decode is None


def test_what_was_not_asked_for_is_said_to_be_so(llava_next: Model) -> None:
    options = {"model": llava_next, "image_size": SIZE, "rounds": 1, "attention": ["rows"]}
    some = tpprof.compare("random:keep=1/2", passes="flops", **options).cells[1]
    assert some.counted_flops
    assert some.energy.reason == "not asked for (--passes)"
    assert some.missing == dict.fromkeys(("activity", "lengths"), "not asked for (--passes)")
    assert some.new_length is None
    none = tpprof.compare("random:keep=1/2", passes=False, **options)
    assert none.complete
    for cell in none.cells:
        assert cell.samples
        assert cell.counted_flops == {}
        assert set(cell.missing) == {"flops", "activity", "lengths"}
