"""The headline says no more than the intervals do."""

from __future__ import annotations

from made import cell, record, sample, work

from tpprof.reports.explain import explain
from tpprof.reports.record import Cell
from tpprof.reports.summary import rows
from tpprof.reports.verdict import verdict


def scattered(method: str, seconds: list[float]) -> Cell:
    samples = [sample(number, value) for number, value in enumerate(seconds)]
    return cell(method, "rows", 1.0, 5, samples=samples)


def headline(*cells: Cell) -> str:
    return verdict(rows(record(cell("vanilla", "rows", 2.0, 10), *cells))).headline


def test_the_fastest_is_named_with_its_promise() -> None:
    found = verdict(rows(record(cell("vanilla", "rows", 2.0, 10), cell("fastv", "rows", 1.0, 4))))
    assert found.headline == (
        "fastv with rows is fastest: 2.00x (2.00 to 2.00) where FLOPs promise 2.50x."
    )
    assert [number for number, _ in found.figures] == ["2.00x", "2.50x", "83 %"]


def test_what_may_be_as_fast_is_not_hidden() -> None:
    near = [1.0, 1.1, 0.9, 1.05, 0.95, 1.0, 1.02]
    assert "if not random" in headline(scattered("fastv", near), scattered("random", near[::-1]))


def test_no_method_is_fastest_where_the_interval_holds_one() -> None:
    told = headline(scattered("fastv", [1.0, 3.0, 1.5, 2.5, 1.2, 2.8, 2.1]))
    assert told.startswith("No method is faster than vanilla beyond doubt")


def test_too_few_rounds_are_said() -> None:
    assert "too few rounds to be sure (3)" in headline(scattered("fastv", [1.0, 1.0, 1.0]))


def test_nothing_beside_vanilla() -> None:
    found = verdict(rows(record(cell("vanilla", "rows", 2.0, 10))))
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
