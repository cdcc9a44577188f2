"""Figures: for the page and for files, from what the record has."""

from __future__ import annotations

import itertools
from pathlib import Path
from xml.etree import ElementTree

import pytest
from page_records import HOSTILE, full, hostile
from record_builders import cell, record

from tpprof.reports.analysis.explanation import Contribution, Explanation
from tpprof.reports.analysis.intervals import Estimate
from tpprof.reports.analysis.run_view import RunView
from tpprof.reports.figures import canvas, gallery, order, promise, side_by_side, stacks, waterfall
from tpprof.reports.figures.canvas import VARIABLES, short, style
from tpprof.reports.figures.svg import svg
from tpprof.reports.record.schema import Record


def test_every_figure_is_written_as_png_and_pdf(tmp_path: Path) -> None:
    first = gallery.save_all(RunView(full()), tmp_path / "a")
    second = gallery.save_all(RunView(full()), tmp_path / "b")
    names = {path.name for path in first}
    assert {"promise.png", "promise.pdf", "waterfall-0.pdf", "positions.png", "order.png"} <= names
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    assert all(path.read_bytes()[:4] in (b"\x89PNG", b"%PDF") for path in first)


def test_figures_of_hostile_names_are_drawn(tmp_path: Path) -> None:
    assert gallery.save_all(RunView(hostile()), tmp_path)


@pytest.mark.parametrize("draw", gallery.DRAWN)
def test_a_figure_without_data_is_none(draw: object) -> None:
    empty = record(cell("vanilla", "rows", 1.0, 1, samples=[]))
    assert draw(RunView(empty)) is None  # type: ignore[operator]


def test_what_a_cell_took_before_it_failed_is_not_drawn() -> None:
    cells = [cell("vanilla", "rows", 2.0, 10), cell("fastv", "rows", 1.0, 4)]
    failed = cell("dart", "rows", 0.1, 4, error="RuntimeError: in round 7")
    without, beside = RunView(record(*cells)), RunView(record(*cells, failed))
    drawn = 0
    for draw in gallery.DRAWN:
        with style():
            one, other = draw(without), draw(beside)
            assert (one is None) == (other is None)
            drawn += one is not None
            if other is not None:
                assert "dart" not in svg(other, "x")
    assert drawn > 1


def test_colours_follow_the_page_and_values_can_be_hovered_over() -> None:
    with style():
        drawn = promise.chart(RunView(full()))
        assert drawn is not None
        picture = svg(drawn, "x")
    assert picture.startswith("<svg viewBox=")
    for colour in VARIABLES:
        assert colour not in picture
    assert "var(--ink)" in picture
    assert "font-family" not in picture
    assert "<title>fastv with rows: promised" in picture
    assert 'id="figure' not in picture


def words(run: Record) -> set[str]:
    """All texts of the figure of promises."""
    with style():
        drawn = promise.chart(RunView(run))
    assert drawn is not None
    return {text.get_text() for text in drawn.figure.texts}


def test_the_promise_has_a_key_whatever_the_number_of_cells() -> None:
    few = words(full())
    assert {"fastv", "mustdrop", "rows", "maps", "●"} <= few
    assert not {"eager", "graph"} & few, "one runtime needs no key"
    run = record(
        cell("vanilla", "rows", 2.0, 10), cell("vanilla", "rows", 2.0, 10, runtime="graph")
    )
    run.cells += [
        cell(f"fastv:tag={number}", "rows", 1.5 - 0.01 * number, 5, runtime=runtime)
        for number in range(20)
        for runtime in ("eager", "graph")
    ]
    many = words(run)
    assert {"fastv:tag=19", "fastv:tag=13", "13 others", "eager", "graph", "○"} <= many
    assert "fastv:tag=12" not in many, "the fastest have colours"


def test_text_in_a_figure_is_escaped() -> None:
    run = full()
    run.cells[1].method = HOSTILE[0]
    with style():
        drawn = stacks.phases(RunView(run))
        assert drawn is not None
        assert "<script" not in svg(drawn, "x")


@pytest.mark.parametrize("name", [text for text in HOSTILE if len(text) < 60])
def test_names_that_look_like_style_stay_as_they_are(name: str) -> None:
    run = full()
    run.cells[1].method = name
    with style():
        drawn = [chart for draw in gallery.DRAWN if (chart := draw(RunView(run)))]
        found = [ElementTree.fromstring(svg(chart, chart.name)) for chart in drawn]
    told = {text for root in found for text in root.itertext()}
    if name.isprintable():
        drawn_too = [text for text in told if " with maps" not in text]
        assert any(text.startswith(name[:11]) for text in drawn_too)
        assert any(text.startswith(f"{name} with maps: promised") for text in told)


def test_suspect_samples_and_clocks_are_drawn_apart() -> None:
    with style():
        drawn = order.chart(RunView(full()))
    assert drawn is not None
    assert any("suspect" in tip for tip in drawn.tips.values())


def test_noise_is_not_blown_up_and_processes_are_told_apart() -> None:
    run = record(cell("vanilla", "rows", 2.0, 10))
    for number, one in enumerate(run.cells[0].samples):
        one.latency, one.process = 2.0 + 0.001 * number, number // 3
    with style():
        drawn = order.chart(RunView(run))
    assert drawn is not None
    low, high = drawn.figure.axes[0].get_ylim()
    assert (low, high) == pytest.approx((2.0025 * 0.95, 2.0025 * 1.05))
    assert len(drawn.tips) == 2
    assert "of every other process" in {text.get_text() for text in drawn.figure.texts}


@pytest.mark.parametrize("count", [2, 6])
def test_records_side_by_side_do_not_run_into_each_other(count: int) -> None:
    with style():
        drawn = side_by_side.chart([RunView(full())] * count, [f"run {n}" for n in range(count)])
    assert drawn is not None
    (axes,) = drawn.figure.axes
    heights = sorted(
        {float(line.get_ydata()[0]) for line in axes.lines if line.get_marker() == "o"}
    )
    assert len(heights) == 3 * count
    gaps = [b - a for a, b in itertools.pairwise(heights)]
    assert min(gaps) == pytest.approx(side_by_side.STEP)
    assert axes.get_ylim()[0] <= heights[0]
    assert axes.get_ylim()[1] >= heights[-1]


def test_phases_sum_to_what_the_parts_say() -> None:
    run = full()
    spent = stacks.spent(run.cells[0])
    whole = sorted(sum(sample.parts) for sample in run.cells[0].samples)
    assert sum(spent.values()) == pytest.approx((whole[3] + whole[4]) / 2)


def test_the_peak_is_one_bar_of_one_counter() -> None:
    run = full()
    run.cells[0].memory.allocator, run.cells[0].memory.resident = 2**30, 2**33
    run.cells[0].memory.allocator_by_phase = {"vision": 2**30, "prefill": 2**29}
    run.cells[0].kv_bytes_prefill = [2**40]
    with style():
        drawn = stacks.memory(RunView(run))
    assert drawn is not None
    assert list(drawn.tips.values()) == [
        "vanilla: peak 1.000 GiB",
        "vanilla: peak in vision 1.000 GiB",
        "vanilla: peak in prefill 0.500 GiB",
    ], "no cell of another counter, and no cache in a peak that was elsewhere"


def test_small_causes_are_gathered_and_nothing_is_lost() -> None:
    parts = [
        Contribution(name="vision", seconds=0.5),
        Contribution(name="embed", seconds=0.001),
        Contribution(name="head", seconds=-0.002),
        Contribution(name="remainder", seconds=0.001),
    ]
    told = Explanation(0.4, 0.5, 1.0, Estimate(2.0, None, None, 1), [], parts)
    found = waterfall.gathered(told)
    assert [part.name for part in found] == ["vision", "2 causes below 1 %", "remainder"]
    assert sum(part.seconds for part in found) == pytest.approx(0.5)


def test_long_names_are_cut_in_the_middle() -> None:
    assert short("x" * 5000, 30) == "x" * 19 + "…" + "x" * 10
    assert short("a\nb\x00c") == "a b c"
    assert len(canvas.SERIES) == len(set(canvas.SERIES))
