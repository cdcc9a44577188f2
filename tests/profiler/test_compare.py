"""The main job on micro models: cells, rounds, failures, interruption."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from micro import SIZE

import tpprof
from tpprof import methods
from tpprof.methods.core import registry
from tpprof.methods.core.errors import InputError
from tpprof.methods.core.plan import single_prune
from tpprof.methods.core.request import Request
from tpprof.methods.core.view import View
from tpprof.profiler.compare import Comparison, Options
from tpprof.profiler.console import measure
from tpprof.profiler.models.model import Model
from tpprof.profiler.workload import Workload
from tpprof.reports.record import Record, load, save
from tpprof.reports.summary import rows

WORKLOAD = Workload(size=SIZE, new_tokens=3)


@pytest.fixture
def broken() -> Iterator[str]:
    """A registered method that raises when it is asked."""

    @methods.register("broken")
    @dataclass(frozen=True)
    class Broken(methods.Method):
        """Raise."""

        def plan(self, request: Request) -> methods.Plan:
            return single_prune(request, 10, None, rows=None)

        def select(self, view: View, stage: methods.Stage) -> methods.Keep | None:
            raise RuntimeError("no idea\nmore lines")

    yield "broken"
    del registry._registry["broken"]


def comparison(model: Model, *specs: str, **options: object) -> Comparison:
    given = {"keep": "1/2", "rounds": 2, **options}
    return Comparison(specs, model=model, workload=WORKLOAD, options=Options(**given))  # type: ignore[arg-type]


def shown(record: Record) -> list[tuple[str, str]]:
    return [(cell.name, cell.attention) for cell in record.cells]


def test_vanilla_comes_first_and_attention_based_methods_twice(model: Model) -> None:
    record = comparison(model, "random", "fastv", "mustdrop", "fastv", "vanilla").run()
    assert shown(record) == [
        ("vanilla", "rows"),
        ("random", "rows"),
        ("fastv", "maps"),
        ("fastv", "rows"),
        ("mustdrop", "maps"),
        ("mustdrop", "rows"),
    ]


def test_a_record_holds_every_sample_and_count(model: Model) -> None:
    run = comparison(model, "fastv", "sparsevlm", attention=("published",), rounds=4)
    record = run.run()
    assert record.complete
    assert record.request.visual == run.request.visual
    for cell in record.cells:
        assert [sample.round for sample in cell.samples] == [0, 1, 2, 3]
        assert all(len(sample.parts) == len(cell.parts) for sample in cell.samples)
        assert all(sample.latency > 0 for sample in cell.samples)
        assert cell.generated_tokens == 3
        assert len(cell.visual_per_layer) == run.request.layers
        assert sum(1 for part in cell.parts if part.part == "layer") == run.request.layers
        assert [part.index for part in cell.parts if part.phase == "decode"] == [0, 1]
        assert sum(item.flops for item in cell.flops) > 0
    phases = {part.phase for part in record.cells[1].parts}
    assert phases == {"preprocess", "transfer", "vision", "embed", "prefill", "head", "decode"}
    assert {part.part for part in record.cells[1].parts if part.phase == "prefill"} == {
        "layer",
        "score",
        "select",
    }


def test_the_order_of_methods_turns(model: Model) -> None:
    record = comparison(model, "random", "pooling", rounds=6).run()
    for cell in record.cells:
        assert {sample.place for sample in cell.samples} == {0, 1, 2}
        assert sum(sample.place for sample in cell.samples) == 6


def test_parts_account_for_the_latency(model: Model) -> None:
    record = comparison(model, "fastv", rounds=6).run()
    for row in rows(record):
        assert row.parts_sum is not None
        assert row.parts_sum.median <= 1.0


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
    run = comparison(llava_next, "mustdrop", attention=("rows",), rounds=3)
    record = run.run()
    solved = record.cells[1].solved
    assert len(solved) == 4
    assert all("threshold" in name for name in solved)


def test_a_method_that_fails_ends_its_own_row(model: Model, broken: str) -> None:
    record = comparison(model, broken, "random").run()
    failed, other = record.cells[1], record.cells[2]
    assert failed.error == "RuntimeError: no idea"
    assert failed.samples == []
    assert len(other.samples) == 2
    assert len(record.cells[0].samples) == 2


def test_a_method_that_fails_late_keeps_its_samples(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = comparison(model, "random", rounds=4)
    original = run._timed

    def failing(cell):  # type: ignore[no-untyped-def]
        if cell.method.name == "random" and len(cell.timings) == 2:
            raise torch.OutOfMemoryError
        return original(cell)

    monkeypatch.setattr(run, "_timed", failing)
    vanilla, random = run.run().cells
    assert random.error == "OutOfMemoryError: no details"
    assert len(random.samples) == 2
    assert len(vanilla.samples) == 4


def test_ctrl_c_keeps_what_was_measured(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = comparison(model, "random", rounds=5)
    calls, original = [0], run._timed

    def interrupted(cell):  # type: ignore[no-untyped-def]
        calls[0] += 1
        if calls[0] == 6:
            raise KeyboardInterrupt
        return original(cell)

    monkeypatch.setattr(run, "_timed", interrupted)
    record, path, stopped = measure(run, tmp_path)
    assert stopped
    assert load(path) == record
    assert not record.complete
    assert sum(len(cell.samples) for cell in record.cells) == 5


def test_the_record_is_on_disk_after_every_round(model: Model, tmp_path: Path) -> None:
    run = comparison(model, "random", rounds=3)
    seen = []

    def look(record: Record) -> None:
        path = tmp_path / "run.json"
        save(record, path)
        seen.append(len(load(path).cells[0].samples))

    run.run(after_round=look)
    assert seen == [1, 2, 3]


def test_rounds_stop_when_time_is_up_but_never_before_six(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(comparison(model, rounds=None, seconds=0.0).run().cells[0].samples) == 6
    ticks = iter(range(1000))
    monkeypatch.setattr("tpprof.profiler.compare.now", lambda: next(ticks))
    measured = comparison(model, rounds=None, seconds=20.0).run().cells[0].samples
    assert 6 < len(measured) <= 30


def test_the_api_refuses_what_it_cannot_use(model: Model) -> None:
    inputs = tpprof.inputs(model, size=SIZE)
    with pytest.raises(InputError, match=r"must come from tpprof\.inputs"):
        tpprof.forward(model, dict(inputs), "fastv")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least 1"):
        tpprof.forward(model, inputs, "fastv:keep=1/2", new_tokens=0)


def test_one_method_need_not_be_a_list(model: Model) -> None:
    record = tpprof.compare("random", model=model, size=SIZE, rounds=1, keep="1/2")
    assert [cell.name for cell in record.cells] == ["vanilla", "random"]


def test_public_compare_takes_the_options_of_the_command_line(model: Model) -> None:
    record = tpprof.compare(["random"], model=model, size=SIZE, rounds=1, keep=0.5, new_tokens=1)
    assert record.cells[1].visual_per_layer[-1] == round(record.request.visual / 2)
    assert record.workload["new_tokens"] == 1
    assert rows(record)[1].decode is None
