"""The first request at a length that never ran: what is timed, and what of the cell it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from fake_capture import Captures
from micro_models import SIZE, load

from tpprof.methods import parse
from tpprof.methods.contract.plan import Plan
from tpprof.methods.contract.request import Request
from tpprof.methods.engine.ledger import Ledger
from tpprof.methods.engine.run import run
from tpprof.methods.engine.runtimes.graph import GraphRuntime
from tpprof.profiler.models.model import Model
from tpprof.profiler.run import new_length
from tpprof.profiler.run.bench import Bench
from tpprof.profiler.run.cells import make_cells
from tpprof.profiler.run.engine_cell import EngineCell
from tpprof.profiler.run.new_length import fewest_more, lengths
from tpprof.profiler.workload import Preparation
from tpprof.reports.record.spec import Workload

WORKLOAD = Workload(image_size=SIZE, text_tokens=(4, 3), new_tokens=3)


@pytest.fixture
def bench(llava_next: Model) -> Iterator[Bench]:
    with Bench(llava_next.device) as bench:
        yield bench


def warmed_up(bench: Bench, spec: str, runtime: Any = "eager") -> EngineCell:
    prepare = Preparation(load("llava-next"), WORKLOAD)
    cells = make_cells([parse(spec)], ("rows",), (runtime,), prepare)
    bench.warm_up(cells[-1])
    assert cells[-1].alive
    return cells[-1]


def test_lengths_are_those_of_prefill_and_of_each_step_of_decode() -> None:
    ledger = Ledger(tokens=[9, 5], decode_keys=[[10, 6], [11, 7]])
    assert lengths(ledger) == {(9, 9), (5, 5), (1, 10), (1, 6), (1, 11), (1, 7)}


@pytest.mark.parametrize(
    ("seen", "more"),
    [
        (set(), 1),
        ({(9, 9), (1, 10), (1, 11)}, 2),  # one more would decode its first token over 11 keys
        ({(10, 10)}, 2),
        ({(1, 12), (10, 10)}, 3),
        ({(5, 11)}, 1),
    ],
)
def test_as_few_tokens_as_make_every_length_new(seen: set[tuple[int, int]], more: int) -> None:
    assert fewest_more({(9, 9), (1, 10)}, seen) == more


def test_the_first_request_at_a_new_length_is_timed_beside_three_that_follow(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    vanilla, pruned = warmed_up(bench, "vanilla"), warmed_up(bench, "random:keep=1/2")
    before = set(bench.tools.lengths)
    assert before == lengths(vanilla.ledger or Ledger()) | lengths(pruned.ledger or Ledger())
    ran: list[Any] = []
    original = new_length.run

    def watched(*given: Any, **options: Any) -> Any:
        ran.append(original(*given, **options))
        return ran[-1]

    monkeypatch.setattr(new_length, "run", watched)
    times = iter([0.9, 0.2, 0.3, 0.25])
    monkeypatch.setattr(bench.tools.watch, "stop", lambda: SimpleNamespace(latency=next(times)))
    bench.lengths(pruned)
    found = pruned.saved.new_length
    assert found is not None
    assert found.seconds == [0.9, 0.2, 0.3, 0.25]
    grown = {trace.ledger.tokens[0] for trace in ran}
    assert grown == {pruned.saved.tokens_per_layer[0] + found.more_tokens}
    assert not lengths(ran[0].ledger) & before
    assert bench.tools.lengths == before | lengths(ran[0].ledger)
    assert pruned.saved.missing == {}


def test_the_cell_is_left_as_it_was(bench: Bench) -> None:
    cell = warmed_up(bench, "sparsevlm:keep=1/2")
    solved = dict(cell.saved.solved)
    bench.lengths(cell)
    assert cell.saved.new_length is not None
    assert cell.saved.solved == solved
    sample = bench.sample(cell, 0, 0, 0)
    assert sample is not None
    assert sample.marks == []
    assert cell.saved.tokens_per_layer[0] == cell.whole.request.length


def test_a_graph_for_the_new_length_leaves_that_of_the_cell(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[GraphRuntime] = []

    def graph(name: str, model: Model) -> GraphRuntime:
        made.append(GraphRuntime(model, capture=Captures()))
        return made[-1]

    monkeypatch.setattr("tpprof.profiler.run.cells.make_runtime", graph)
    monkeypatch.setattr(new_length, "make_runtime", graph)
    cell = warmed_up(bench, "random:keep=1/2", "graph")
    captured = cell.runtime.setups
    bench.lengths(cell)
    assert cell.saved.missing == {}
    assert cell.saved.new_length is not None
    assert cell.runtime.setups == captured
    assert made[-1] is not cell.runtime
    assert made[-1].captures == 2, "a server captures anew"


def test_a_cell_that_fell_back_is_measured_as_it_runs(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = warmed_up(bench, "vanilla", "graph")
    assert cell.runtime.fallback == "needs a CUDA device"
    asked: list[str] = []
    original = new_length.make_runtime

    def noted(name: str, model: Model) -> Any:
        asked.append(name)
        return original(name, model)

    monkeypatch.setattr(new_length, "make_runtime", noted)
    bench.lengths(cell)
    assert asked == ["eager"], "what could not be captured is not tried again"


def test_a_prefill_that_is_not_captured_is_not_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[GraphRuntime] = []

    def graph(name: str, model: Model) -> GraphRuntime:
        made.append(GraphRuntime(model, capture=Captures()))
        return made[-1]

    monkeypatch.setattr("tpprof.profiler.run.cells.make_runtime", graph)
    monkeypatch.setattr(new_length, "make_runtime", graph)
    cell = warmed_up(bench, "mustdrop:global_threshold=0.001", "graph")
    assert cell.runtime.eager_prefill
    bench.lengths(cell)
    assert made[-1].eager_prefill == cell.runtime.eager_prefill
    assert made[-1].captures == 1, "decode alone"


def test_a_compiler_that_fails_on_another_length_leaves_the_cell_compiled(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = warmed_up(bench, "random:keep=1/2")
    cell.runtime.name = "compile"

    def gives_up(*arguments: Any, **options: Any) -> Any:
        cell.runtime.fallback = "no compiler"
        return run(*arguments, **options)

    monkeypatch.setattr(new_length, "run", gives_up)
    bench.lengths(cell)
    assert cell.runtime.fallback == ""
    assert cell.saved.new_length is None
    assert cell.saved.missing["lengths"].endswith("does not run under compile: no compiler")


def test_a_length_that_ran_before_all_the_same_is_no_figure(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = warmed_up(bench, "vanilla")
    monkeypatch.setattr(new_length, "fewest_more", lambda wanted, seen: 0)
    bench.tools.lengths = {(1, cell.saved.tokens_per_layer[0] + 1)}
    bench.lengths(cell)
    assert cell.saved.new_length is None
    assert "lengths that were run before" in cell.saved.missing["lengths"]
    length = cell.saved.tokens_per_layer[0]
    assert (length, length) in bench.tools.lengths, "it has run by now, figure or not"


@dataclass(frozen=True)
class Fixed(type(parse("vanilla"))):  # type: ignore[misc]
    """Vanilla, as long as the text is as long as at first."""

    name = "fixed"

    def plan(self, request: Request) -> Plan:
        if request.after > 3:
            raise ValueError("another text")
        return super().plan(request)


def test_a_method_that_fails_with_more_text_keeps_its_row(bench: Bench) -> None:
    cell = warmed_up(bench, "vanilla")
    cell.method = Fixed()
    bench.lengths(cell)
    assert cell.alive
    assert cell.saved.new_length is None
    told = "ValueError: another text (test_new_length.py line "
    assert cell.saved.missing["lengths"].startswith(told)


@pytest.mark.parametrize("more", [1, 7])
@pytest.mark.parametrize("options", [{}, {"image_size": None, "visual_tokens": 12}], ids=str)
def test_a_longer_request_has_more_text_and_the_same_picture(
    llava_next: Model, options: dict[str, Any], more: int
) -> None:
    given = {"image_size": SIZE, "text_tokens": (4, 3), **options}
    prepare = Preparation(llava_next, Workload(**given))
    longer = prepare.longer(more)
    shorter_inputs, inputs = prepare(), longer()
    assert longer.request.length == prepare.request.length + more
    assert inputs.request == longer.request
    assert inputs.positions.shape[-1] == longer.request.length
    assert (longer.request.before, longer.request.visual) == (4, prepare.request.visual)
    assert prepare().request == shorter_inputs.request, "the other one stays"


def test_a_prompt_grows_by_its_own_last_words(
    llava_next: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = Preparation(llava_next, Workload(image_size=SIZE, text_tokens=(2, 3)))
    prepare.text = None  # as with a tokenizer, which is asked in each request
    monkeypatch.setattr(prepare, "_tokenize", lambda: ([5, 6], [7, 8, 9]))
    ids = prepare.longer(4)()["input_ids"][0].tolist()
    assert ids[:2] == [5, 6]
    assert ids[-7:] == [7, 8, 9, 7, 8, 9, 7]


def test_compare_measures_it_and_prints_it(llava_next: Model) -> None:
    import tpprof
    from tpprof.reports.text.table7 import table7

    record = tpprof.compare(
        "random:keep=1/2",
        model=llava_next,
        image_size=SIZE,
        rounds=1,
        attention=["rows"],
        passes=["lengths"],
    )
    for cell in record.cells:
        assert cell.new_length is not None
        assert len(cell.new_length.seconds) == 4
        cell.new_length.seconds = [0.5, 0.1, 0.3, 0.2]
    record.cells[1].new_length.seconds[0] = 0.3  # type: ignore[union-attr]
    table = table7(record)
    headings = [column.heading for column in table.visible()]
    assert [line[headings.index("new length\nms")] for line in table.lines()] == ["300.0", "noise"]
    (told,) = [c.values for c in table.columns if c.heading == "new length\nms"]
    assert [told["new_length_seconds"](row) for row in table.rows] == pytest.approx([0.3, 0.1])
