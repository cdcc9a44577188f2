"""The bench: what makes a sample suspect, and how long it warms up."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from fake_capture import Captures
from micro_models import SIZE

from tpprof.methods import Keep, Method, Stage, View, parse
from tpprof.methods.engine.run import run
from tpprof.methods.engine.runtimes.graph import GraphRuntime
from tpprof.profiler.meters import flop_counter, process_memory, torch_profile
from tpprof.profiler.models.model import Model
from tpprof.profiler.run.bench import Bench, _settled, frozen
from tpprof.profiler.run.cells import make_cells
from tpprof.profiler.run.engine_cell import EngineCell
from tpprof.profiler.workload import Preparation
from tpprof.reports.record.schema import Telemetry
from tpprof.reports.record.spec import Workload


class FakeSampler:
    """Tells of every sample what it is given."""

    def __init__(self, telemetry: Telemetry | None) -> None:
        self.given = telemetry
        self.reason = "it could not be started"
        self.highest_sm_hz = 1.98e9
        self.windows: list[tuple[float, float]] = []

    def telemetry(self, began: float, ended: float) -> Telemetry | None:
        self.windows.append((began, ended))
        return self.given


@pytest.fixture
def bench(llava_next: Model) -> Iterator[Bench]:
    with Bench(llava_next.device) as bench:
        yield bench


@pytest.fixture
def cell(llava_next: Model) -> EngineCell:
    method = parse("random:keep=1/2")
    prepare = Preparation(llava_next, Workload(image_size=SIZE))
    cells = make_cells([method], ("rows",), ("eager",), prepare)
    return cells[1]


def test_a_good_sample_has_no_marks(bench: Bench, cell: EngineCell) -> None:
    bench.warm_up(cell)
    sample = bench.sample(cell, 3, 1, 0)
    assert sample is not None
    assert (sample.round, sample.turn, sample.process) == (3, 1, 0)
    assert sample.marks == []
    assert sample.telemetry is None
    assert sample.host == {}, "on a CPU the host's time is the phase's"
    assert len(sample.parts) == len(cell.saved.parts)


def test_asking_the_driver_for_memory_in_the_window_marks_the_sample(
    bench: Bench, cell: EngineCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter(
        [{"cudaMalloc": 4, "allocator retry": 0}, {"cudaMalloc": 5, "allocator retry": 0}]
    )
    monkeypatch.setattr(process_memory, "allocations", lambda device: next(counts))
    sample = bench.sample(cell, 0, 0, 0)
    assert sample is not None
    assert sample.marks == ["cudaMalloc in the window"]


def test_compiling_in_the_window_marks_the_sample(
    bench: Bench, cell: EngineCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = itertools.chain([{"captures": 1}], itertools.repeat({"captures": 2}))
    monkeypatch.setattr(type(cell.runtime), "setups", property(lambda self: next(counts)))
    sample = bench.sample(cell, 0, 0, 0)
    assert sample is not None
    assert sample.marks == ["captures in the window"]


def test_a_runtime_that_gives_up_in_the_window_is_never_mixed_in(
    bench: Bench, cell: EngineCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gives_up(*arguments: object, **options: object) -> object:
        cell.runtime.fallback = "no memory for it"
        return run(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("tpprof.profiler.run.engine_cell.run", gives_up)
    assert bench.sample(cell, 0, 0, 0) is None
    assert cell.saved.error == "RuntimeError: eager gave up late: no memory for it"


def test_throttling_marks_the_sample(bench: Bench, cell: EngineCell) -> None:
    hot = Telemetry(
        readings=2, sm_clock_hz=1.2e9, throttled=["hardware thermal slowdown"], others=[42]
    )
    sampler = FakeSampler(hot)
    bench._sampler = sampler  # type: ignore[assignment]
    sample = bench.sample(cell, 0, 0, 0)
    assert sample is not None
    assert sample.telemetry == hot
    assert sample.marks == ["throttled (hardware thermal slowdown)", "process 42 on the GPU"]
    ((began, ended),) = sampler.windows
    assert ended - began == pytest.approx(sample.latency)


def test_a_power_cap_without_a_lower_clock_is_no_mark(bench: Bench, cell: EngineCell) -> None:
    capped = Telemetry(readings=3, sm_clock_hz=1.965e9, throttled=["software power cap"])
    bench._sampler = FakeSampler(capped)  # type: ignore[assignment]
    sample = bench.sample(cell, 0, 0, 0)
    assert sample is not None
    assert sample.telemetry == capped, "what the driver said is kept"
    assert sample.marks == []


def test_a_sampler_that_tells_nothing_leaves_its_reason(bench: Bench, cell: EngineCell) -> None:
    bench._sampler = FakeSampler(None)  # type: ignore[assignment]
    sample = bench.sample(cell, 0, 0, 0)
    assert sample is not None
    assert sample.telemetry is None
    assert cell.saved.missing == {"telemetry": "it could not be started"}


def test_a_pass_that_fails_says_why_and_costs_nothing_else(
    bench: Bench, cell: EngineCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no profiler here")

    monkeypatch.setattr(torch_profile, "count", broken)
    bench.warm_up(cell)
    bench.activity(cell)
    bench.energy(cell)
    assert cell.saved.missing["activity"] == "RuntimeError: no profiler here"
    assert not cell.saved.error
    assert cell.saved.energy.joules is None
    assert "no GPU" in cell.saved.energy.reason


def test_flops_are_counted_under_eager_alone(
    bench: Bench, cell: EngineCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.warm_up(cell)
    bench.flops(cell)
    for phase in ("prefill", "head"):  # rotary tables, by products in some versions, lie elsewhere
        charged = sum(item.flops for item in cell.saved.cost if item.phase == phase)
        assert cell.saved.counted_flops[phase] == charged > 0
    monkeypatch.setattr(cell.runtime, "name", "graph")
    bench.flops(cell)
    assert cell.saved.missing["flops"] == "torch counts no FLOPs under graph"


@pytest.mark.parametrize(
    ("backend", "seen", "told"),
    [
        ("flash_attention_4", [], ["flash_attention_4"]),
        ("flash_attention_4", ["aten.cdist"], ["aten.cdist", "flash_attention_4"]),
        ("flash_attention_2", ["flash_attn._flash_attn_forward"], None),
        ("sdpa-flash", [], None),
    ],
)
def test_attention_that_torch_does_not_see_is_named(
    backend: str,
    seen: list[str],
    told: list[str] | None,
    bench: Bench,
    cell: EngineCell,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted = flop_counter.CountedFlops({"prefill": 2}, {}, 0, seen)
    monkeypatch.setattr(flop_counter, "flops", lambda request: counted)
    monkeypatch.setattr(cell.model, "backend", backend)
    bench.flops(cell)
    assert cell.saved.uncounted_operators == (seen if told is None else told)


def test_what_is_loaded_is_frozen_while_measuring() -> None:
    gc.freeze()  # as Python 3.12 starts: with frozen objects of its own
    at_first = gc.get_freeze_count()
    made_since = [[number] for number in range(1000)]
    with frozen():
        assert gc.get_freeze_count() >= at_first + len(made_since)
        with frozen():
            pass
        assert gc.get_freeze_count() >= at_first + len(made_since), "by the one outside"
    assert gc.get_freeze_count() == 0


def test_a_failing_energy_pass_leaves_its_reason_and_the_row(
    bench: Bench, cell: EngineCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the counter went away")

    monkeypatch.setattr("tpprof.profiler.run.bench.energy_per_request", broken)
    bench._gpu = object()  # type: ignore[assignment]
    bench.energy(cell)
    bench._gpu = None
    assert cell.saved.energy.joules is None
    assert cell.saved.energy.reason == "RuntimeError: the counter went away"
    assert not cell.saved.error


def test_a_sampler_without_a_reading_leaves_its_reason(bench: Bench, cell: EngineCell) -> None:
    bench._sampler = FakeSampler(Telemetry(readings=0))  # type: ignore[assignment]
    assert bench.sample(cell, 0, 0, 0) is not None
    assert cell.saved.missing == {"telemetry": "it could not be started"}


@pytest.mark.parametrize(
    ("times", "settled"),
    [
        ([], False),
        ([3.0, 1.0], False),
        ([3.0, 1.0, 1.01, 1.0], True),
        ([1.0, 1.0, 1.1], False),
        ([1.0, 2.0] * 10, True),
        ([30.0, 1.0, 2.0], False),
        ([30.0, 2.0, 3.0], True),
    ],
    ids=str,
)
def test_warm_up_ends_when_times_settle_or_never_will(times: list[float], settled: bool) -> None:
    assert _settled(times, most=20) == settled


def test_what_holds_the_method_to_its_plan_leaves_the_runtime_alone(
    bench: Bench, cell: EngineCell
) -> None:
    cell.runtime = runtime = GraphRuntime(cell.model, capture=Captures())
    bench.warm_up(cell)
    assert (runtime.fallback, runtime.eager_prefill, cell.saved.error) == ("", "", "")
    assert runtime.captures == 2


def test_a_decision_that_no_graph_holds_is_in_the_record(
    bench: Bench, cell: EngineCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = type(cell.method).decide

    def waits(method: Method, view: View, stage: Stage) -> Keep | None:
        float(view.hidden.flatten()[0])
        return own(method, view, stage)

    monkeypatch.setattr(type(cell.method), "decide", waits)
    cell.runtime = GraphRuntime(cell.model, capture=Captures())
    bench.warm_up(cell)
    assert (cell.saved.error, cell.saved.fallback) == ("", "")
    assert "when stream is capturing" in cell.saved.eager_prefill


def test_what_a_graph_holds_of_the_host_fails_the_cell(
    bench: Bench, cell: EngineCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which tokens stay, a number of Python's decides: a graph holds the one of its capture."""
    captured: list[bool] = []
    own = type(cell.method).decide

    def drawn(method: Method, view: View, stage: Stage) -> Keep | None:
        keep = own(method, view, stage)
        assert keep is not None
        return Keep(keep.index.flip(1).sub(35).abs().sort(-1).values) if captured else keep

    class Told(Captures):
        def __call__(self, device: Any) -> Any:
            captured.append(True)
            return super().__call__(device)

    monkeypatch.setattr(type(cell.method), "decide", drawn)
    cell.runtime = GraphRuntime(cell.model, capture=Told())
    bench.warm_up(cell)
    assert "captured as a graph it " in cell.saved.error
    assert "something on the host" in cell.saved.error


def test_captures_are_in_the_record_with_the_first_sample(bench: Bench, cell: EngineCell) -> None:
    cell.runtime = GraphRuntime(cell.model, capture=Captures())
    bench.warm_up(cell)
    assert bench.sample(cell, 0, 0, 0) is not None
    assert cell.saved.setups == {"captures": 2}


@pytest.mark.parametrize("moment", ["warm-up", "sample"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_an_answer_that_is_no_number_fails_the_cell(
    bench: Bench, cell: EngineCell, moment: str, wrong: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if moment == "sample":
        bench.warm_up(cell)
    head = cell.model.head
    monkeypatch.setattr(cell.model, "head", lambda hidden: head(hidden) * wrong)
    if moment == "sample":
        assert bench.sample(cell, 0, 0, 0) is None
    else:
        bench.warm_up(cell)
    assert "its logits are not finite numbers" in cell.saved.error
    assert "--dtype bfloat16" in cell.saved.error


def test_a_decision_that_does_not_fit_fails_the_cell_by_file_and_line(
    bench: Bench, cell: EngineCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(cell.method), "decide", lambda *_: None)
    bench.warm_up(cell)
    assert "is a return forgotten?" in cell.saved.error
    assert "test_bench.py line" in cell.saved.error
