"""A sweep as it is read: rows, the front, the fastest for each budget, table, page and frame."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import pytest
from record_builders import cell, record, sample

from tpprof.reports.record import files
from tpprof.reports.record.accuracy import Accuracy, Answers, YesNoQuestion
from tpprof.reports.record.base import RecordError
from tpprof.reports.record.journal import Journal
from tpprof.reports.record.schema import Cell, Record
from tpprof.reports.record.spec import RunSpec
from tpprof.reports.sweep import figures, tables
from tpprof.reports.sweep.grid import (
    SCHEMA,
    BlockLeft,
    Grid,
    GridBegun,
    GridBlock,
    GridCell,
    Sweep,
    journal_of,
    load,
    record_of,
)
from tpprof.reports.sweep.page import render_sweep
from tpprof.reports.sweep.rows import GridRow, best_by_budget, by_f1, front_of, grid_rows, titles

BUDGETS = ("1/2", "1/4")


def timed(method: str, seconds: float, tokens: int, spread: float = 0.0) -> Cell:
    """A cell whose six samples lie `spread` around `seconds`, under vanilla's of 2 s."""
    around = [sample(n, seconds * (1 + spread * (-1) ** n)) for n in range(6)]
    return cell(method, "rows", seconds, 10, visual_per_layer=[tokens] * 2, samples=around)


def block(model: str, methods: list[str], problem: str = "") -> GridBlock:
    wanted = [
        GridCell(method=f"{name}:keep={keep}", base=name, keep=keep)
        for name in methods
        for keep in BUDGETS
    ]
    spec = RunSpec.of(model=model, methods=[one.method for one in wanted])
    return GridBlock(spec=spec, axes={"model": model}, cells=wanted, problem=problem)


def measured(fastv: tuple[float, float], random: tuple[float, float], spread: float) -> Record:
    made = record(timed("vanilla", 2.0, 100))
    for name, times in (("fastv", fastv), ("random", random)):
        for keep, seconds, tokens in zip(BUDGETS, times, (50, 25), strict=True):
            made.cells.append(timed(f"{name}:keep={keep}", seconds, tokens, spread))
    return made


@pytest.fixture
def sweep() -> Sweep:
    """Two models measured, one that cannot be planned, and one that has not begun."""
    names = ["fastv", "random"]
    blocks = [
        block("a", names),
        block("b", names),
        block("c", names, "unknown model 'c'"),
        block("d", names),
    ]
    grid = Grid(schema=SCHEMA, tpprof="0", created="", command="tpprof sweep", blocks=blocks)
    records = [
        measured((1.0, 0.5), (0.8, 0.6), 0.001),
        measured((1.0, 0.7), (1.0, 0.71), 0.05),
        None,
        None,
    ]
    return Sweep(grid, records, {})


def test_every_cell_is_a_row_and_what_was_not_measured_says_why(sweep: Sweep) -> None:
    listed = grid_rows(sweep)
    assert len(listed) == 2 * 5 + 2 * 4
    reasons = {row.block: row.reason for row in listed}
    assert reasons == {0: "", 1: "", 2: "unknown model 'c'", 3: "not measured yet"}
    assert [row.keep for row in listed[:5]] == [None, "1/2", "1/4", "1/2", "1/4"]
    table = tables.grid_table(sweep)
    assert table.warnings == ["8 of 18 cells were not measured"]
    assert "unknown model 'c'" in table.to_markdown()


def test_what_was_answered_stands_beside_the_speed(sweep: Sweep) -> None:
    first = sweep.records[0]
    assert first is not None
    assert tables.grid_table(sweep).to_values()[0].get("f1") is None
    assert figures.accuracy(sweep, grid_rows(sweep)) is None
    questions = [
        YesNoQuestion(id=str(n), category="random", picture=str(n), prompt="?", label=label)
        for n, label in enumerate(["yes", "no"] * 4)
    ]
    right = ["Yes", "No"] * 4
    texts = {"fastv:keep=1/2": right[:6] + ["No"] * 2, "random:keep=1/2": ["No"] * 6 + right[6:]}
    first.accuracy = Accuracy(
        benchmark="POPE",
        source="made up",
        attention="rows",
        new_tokens=4,
        batch_size=2,
        questions=questions,
        answers=[
            Answers(method=one.method, texts=list(texts.get(one.method, right)))
            for one in first.cells
            if one.method != "random:keep=1/4"
        ],
    )
    listed = grid_rows(sweep)
    chosen = {listed[n].method for n in front_of(listed, lambda row: row.speedup, by_f1)}
    assert chosen == {"fastv:keep=1/4"}, "right in all, and the fastest"
    values = {row["method"]: row for row in tables.grid_table(sweep).to_values()[:5]}
    assert values["fastv:keep=1/4"]["f1"] == 1.0
    assert values["fastv:keep=1/4"]["front"] == "speed, accuracy"
    assert values["fastv:keep=1/2"]["f1"] == pytest.approx(6 / 7)
    assert values["random:keep=1/4"]["f1"] is None
    assert "Speed-up and F1" in render_sweep(sweep, "s")


def test_the_front_is_of_one_block_and_nothing_beats_what_is_on_it(sweep: Sweep) -> None:
    listed = grid_rows(sweep)
    chosen = {
        (listed[n].block, listed[n].method) for n in front_of(listed, lambda row: row.speedup)
    }
    assert chosen == {
        (0, "vanilla"),
        (0, "random:keep=1/2"),
        (0, "fastv:keep=1/4"),
        (1, "vanilla"),
        (1, "fastv:keep=1/2"),
        (1, "random:keep=1/2"),  # the same
        (1, "fastv:keep=1/4"),
    }
    equal = [row for row in listed if row.block == 0 and row.is_vanilla] * 2
    assert front_of(equal, lambda row: row.speedup) == {0, 1}
    assert front_of([], lambda row: row.speedup) == set()


def test_the_fastest_for_each_budget_and_what_the_clock_cannot_tell_from_it(sweep: Sweep) -> None:
    found = {(b.row.block, b.row.keep): b for b in best_by_budget(grid_rows(sweep))}
    assert found[0, "1/2"].row.method == "random:keep=1/2"
    assert found[0, "1/2"].rivals == []
    assert found[0, "1/4"].row.base == "fastv"
    assert [row.base for row in found[1, "1/4"].rivals] == ["random"], "their intervals overlap"
    assert set(found) == {(block, keep) for block in (0, 1) for keep in BUDGETS}


def test_what_a_cell_took_before_it_failed_is_no_result(sweep: Sweep) -> None:
    """It raised in its third round, after the two fastest requests of all."""
    found = sweep.records[0]
    assert found is not None
    failed = found.cells[2]
    failed.samples = [sample(n, 0.1) for n in range(2)]
    failed.error = "RuntimeError: in round 3"
    listed = [row for row in grid_rows(sweep) if row.block == 0]
    (row,) = [row for row in listed if row.reason]
    assert row.latency is row.speedup is row.peak_bytes is None
    fastest = [best.row.method for best in best_by_budget(listed)]
    assert fastest == ["random:keep=1/2", "random:keep=1/4"]
    assert listed.index(row) not in front_of(listed, lambda row: row.speedup)
    line = tables.frame(sweep).iloc[listed.index(row)]
    assert (line.method, line.reason) == (row.method, "RuntimeError: in round 3")
    assert line.front == ""
    assert math.isnan(line.speedup)
    chart = figures.speedups(sweep, listed)
    assert chart is not None
    assert not any(row.label in tip for tip in chart.tips.values())


def test_table_csv_and_frame_hold_the_same(sweep: Sweep) -> None:
    table = tables.grid_table(sweep)
    read = list(csv.DictReader(io.StringIO(table.to_csv())))
    frame = tables.frame(sweep)
    assert len(read) == len(frame) == 18
    assert float(read[2]["speedup"]) == frame.speedup[2] == pytest.approx(4.0, rel=1e-3)
    assert read[2]["model"] == "a"
    assert read[2]["front"] == frame.front[2] == "speed"
    assert read[10]["reason"] == "unknown model 'c'"
    assert frame.speedup.isna().sum() == 8


def test_panels_stand_for_what_was_measured(sweep: Sweep) -> None:
    listed = grid_rows(sweep)
    for draw in (figures.speedups, figures.memory):
        chart = draw(sweep, listed)
        assert chart is not None
        assert [axes.get_title("left") for axes in chart.figure.axes] == ["a", "b"]
        assert len(chart.tips) == 10
    assert (
        "fastv:keep=1/4, rows: 25 visual tokens, 4.00x"
        in figures.speedups(sweep, listed).tips.values()
    )
    assert figures.speedups(sweep, [row for row in listed if row.block > 1]) is None


def test_the_page_holds_every_cell_and_loads_nothing(sweep: Sweep) -> None:
    page = render_sweep(sweep, "a <b>")
    assert "a &lt;b&gt;" in page
    assert page.count("<svg") >= 2
    assert page.count("random:keep=1/4") >= 4
    assert "http" not in page.replace("http://www.w3.org", "")


def test_what_lies_in_a_folder_is_read_again(
    sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal.begin(journal_of(tmp_path), GridBegun(grid=sweep.grid))
    journal.append(BlockLeft(index=3, reason="ended by SIGKILL"))
    journal.close()
    for index in (0, 1):
        found = sweep.records[index]
        assert found is not None
        found.spec = sweep.grid.blocks[index].spec
        files.save(found, record_of(tmp_path, index))
    again = load(tmp_path)
    assert not again.complete
    assert [row.reason for row in grid_rows(again)][-1] == "ended by SIGKILL"
    assert titles(again.grid)[1] == "b"
    with journal_of(tmp_path).open("ab") as file:
        file.write(
            b'{"hello": 1}\n\xff\n{"type":"block","index":99,"reason":"of none"}\n{"type":"bl'
        )
    assert load(tmp_path) == again
    assert capsys.readouterr().err.count("is left out") == 2
    record_of(tmp_path, 1).write_text("{")
    broken = load(tmp_path)
    assert "is no tpprof record, or damaged" in broken.reasons[1]
    journal_of(tmp_path).write_text('{"type":"sweep","grid":{"schema":99}}\n')
    with pytest.raises(RecordError, match="schema 99 is unknown"):
        load(tmp_path)
    with pytest.raises(RecordError, match="holds no sweep"):
        load(tmp_path / "none")


def test_reading_grows_linearly_with_the_cells(sweep: Sweep) -> None:
    """Of 500 cells: no step compares all with all."""
    one = sweep.records[0]
    assert one is not None

    def of(count: int) -> Sweep:
        blocks = [block(f"m{n}", ["fastv", "random"]) for n in range(count)]
        grid = Grid(schema=SCHEMA, tpprof="0", created="", command="", blocks=blocks)
        return Sweep(grid, [one] * count, {})

    calls = []
    for count in (10, 100):
        seen = 0

        def worth(row: GridRow) -> float | None:
            nonlocal seen
            seen += 1
            return row.speedup

        listed = grid_rows(of(count))
        front_of(listed, worth)
        calls.append(seen)
    assert calls == [50, 500]
    chart = figures.speedups(of(100), grid_rows(of(100)))
    assert chart is not None
    assert chart.note == "The first 12 of 100 comparisons."
