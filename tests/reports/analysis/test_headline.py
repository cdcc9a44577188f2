"""The headline says no more than the intervals do."""

from __future__ import annotations

import pytest
from record_builders import cell, record, sample, work

from tpprof.reports.analysis.explanation import explain
from tpprof.reports.analysis.headline import headline_of
from tpprof.reports.analysis.summary import rows
from tpprof.reports.record.cell import CallableInfo
from tpprof.reports.record.schema import Cell


def scattered(method: str, seconds: list[float]) -> Cell:
    samples = [sample(number, value) for number, value in enumerate(seconds)]
    return cell(method, "rows", 1.0, 5, samples=samples)


def headline(*cells: Cell) -> str:
    return headline_of(rows(record(cell("vanilla", "rows", 2.0, 10), *cells))).headline


def test_the_fastest_is_named_with_its_promise() -> None:
    found = headline_of(
        rows(record(cell("vanilla", "rows", 2.0, 10), cell("fastv", "rows", 1.0, 4)))
    )
    assert found.headline == (
        "fastv with rows is fastest: 2.00x (2.00 to 2.00), in 0.96x the time that FLOPs promise."
    )
    assert [number for number, _ in found.figures] == ["2.00x", "1.92x", "0.96x"]


def test_what_may_be_as_fast_is_not_hidden() -> None:
    near = [1.0, 1.1, 0.9, 1.05, 0.95, 1.0, 1.02]
    assert "if not random" in headline(scattered("fastv", near), scattered("random", near[::-1]))


def test_what_a_cell_took_before_it_failed_makes_it_no_fastest() -> None:
    failed = cell("dart", "rows", 0.1, 4, error="RuntimeError: in round 7")
    assert headline(failed, cell("fastv", "rows", 1.0, 4)).startswith("fastv with rows is fastest")
    assert headline(failed).startswith("Nothing was measured beside vanilla")


def test_over_a_vanilla_that_failed_nothing_is_faster() -> None:
    failed = cell("vanilla", "rows", 2.0, 10, error="out of memory in round 7")
    listed = rows(record(failed, cell("fastv", "rows", 1.0, 4)))
    assert headline_of(listed).headline.startswith("Nothing was measured beside vanilla")
    assert [row.speedup for row in listed] == [None, None]
    assert [row.latency is None for row in listed] == [True, False]


def test_what_is_slower_than_vanilla_never_looks_fastest() -> None:
    told = headline(scattered("fastv", [3.0, 3.2]))
    assert told == (
        "No method looks faster than vanilla: fastv with rows ran at 0.65x; too few rounds to be "
        "sure (2)."
    )


def test_no_method_is_fastest_where_the_interval_holds_one() -> None:
    told = headline(scattered("fastv", [1.0, 3.0, 1.5, 2.5, 1.2, 2.8, 2.1]))
    assert told.startswith("No method is faster than vanilla beyond doubt")


def test_across_runtimes_the_least_latency_is_fastest() -> None:
    """A slow runtime's larger speed-up, over its own slower vanilla, is told and does not win."""
    run = record(
        cell("vanilla", "rows", 4.0, 10),
        cell("vanilla", "rows", 1.5, 10, runtime="graph"),
        cell("fastv", "rows", 1.6, 4),
        cell("random", "rows", 1.0, 4, runtime="graph"),
    )
    told = headline_of(rows(run)).headline
    assert told.startswith(
        "random with rows under graph is fastest: 1.50x (1.50 to 1.50) over its own vanilla"
    )
    assert told.endswith(
        "The largest speed-up over its own vanilla is that of fastv with rows: 2.50x."
    )
    run.cells[1].samples = [sample(number, 0.9) for number in range(6)]
    told = headline_of(rows(run)).headline
    assert told.startswith("No method is faster than vanilla beyond doubt")
    assert "the one of the least latency, random with rows under graph, ran at 0.90x" in told


def test_the_best_of_many_needs_more_than_one_interval() -> None:
    seconds = [1.6, 1.87, 1.7, 1.85, 1.65, 1.86, 1.75, 1.77]
    alone = headline(scattered("fastv", seconds))
    assert alone.startswith("fastv with rows is fastest")
    many = [scattered(f"fastv:tag={number}", seconds) for number in range(12)]
    assert "too little for the best of 12" in headline(*many)


def test_too_few_rounds_are_said() -> None:
    assert "too few rounds to be sure (3)" in headline(scattered("fastv", [1.0, 1.0, 1.0]))


def of_callable(name: str, seconds: float, tokens: int, *, own_inputs: bool = False) -> Cell:
    info = CallableInfo(reference=f"fork:{name}", process="own", own_inputs=own_inputs)
    return cell(name, "own", seconds, 0, callable=info, cost=[], generated_tokens=tokens)


@pytest.mark.parametrize(
    ("fork", "doubt"),
    [
        (of_callable("fork", 1.0, 2), ""),
        (of_callable("fork", 1.0, 2, own_inputs=True), "fork made inputs of its own"),
        (of_callable("fork", 1.0, 0), "how many tokens fork gave was not seen"),
        (of_callable("fork", 1.0, 1), "its tokens are 1, those of vanilla 2"),
        (cell("fastv", "rows", 1.0, 4), ""),
    ],
    ids=["same", "inputs", "unseen", "fewer", "method"],
)
def test_a_callable_whose_work_may_be_other_work_is_not_called_fastest_alone(
    fork: Cell, doubt: str
) -> None:
    for samples in (6, 3):  # beyond doubt, and from too few rounds
        fork.samples = fork.samples[:samples]
        run = record(cell("vanilla", "rows", 2.0, 10, generated_tokens=2), fork)
        told = headline_of(rows(run)).headline
        assert "fastest" in told
        assert told.partition(" Nothing says that it did the same work: ")[2] == (
            f"{doubt}." if doubt else ""
        )


def test_a_callable_that_all_are_compared_with_may_do_other_work_too() -> None:
    plain = of_callable("vanilla", 2.0, 2, own_inputs=True)
    told = headline_of(rows(record(plain, of_callable("fork", 1.0, 2)))).headline
    assert told.endswith("the same work: vanilla made inputs of its own.")


def test_tokens_are_held_against_the_vanilla_that_was_measured() -> None:
    failed = cell("vanilla", "rows", 2.0, 0, runtime="graph", error="boom", generated_tokens=0)
    plain = cell("vanilla", "rows", 2.0, 10, generated_tokens=2)
    told = headline_of(rows(record(failed, plain, of_callable("fork", 1.0, 2)))).headline
    assert "Nothing says" not in told


def test_nothing_beside_vanilla() -> None:
    found = headline_of(rows(record(cell("vanilla", "rows", 2.0, 10))))
    assert "Nothing was measured beside vanilla" in found.headline
    assert found.figures == []


def test_advice_does_without_maps_that_were_not_counted() -> None:
    cost = [work("prefill", "layer", layer, "ffn", 5) for layer in range(2)]
    full = [work("prefill", "layer", layer, "ffn", 9) for layer in range(2)]
    run = record(
        cell("vanilla", "rows", 2.0, 1, cost=full, tokens_per_layer=[60, 60]),
        cell("fastv", "maps", 1.5, 1, cost=cost, tokens_per_layer=[60, 9]),
        cell("fastv", "rows", 1.0, 1, cost=cost, tokens_per_layer=[60, 9]),
    )
    told = explain(run, run.cells[1])
    assert told is not None
    assert not any("Read rows" in sentence for sentence in told.advice)


def test_a_cell_that_ran_eager_is_not_said_to_have_run_under_its_runtime() -> None:
    run = record(
        cell("vanilla", "rows", 2.0, 10),
        cell("vanilla", "rows", 2.0, 10, runtime="graph"),
        cell("random", "rows", 1.0, 4, runtime="graph", fallback="needs a CUDA device"),
    )
    told = headline_of(rows(run)).headline
    assert "random with rows under graph (which ran eager)" in told
    assert "(which ran eager)" not in headline(cell("random", "rows", 1.0, 4))
