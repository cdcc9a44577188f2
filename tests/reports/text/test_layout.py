"""Tables and lines on terminals: nothing is too long, and nothing is lost."""

from __future__ import annotations

import io
import re
from collections import Counter
from typing import Any

import pytest
from page_records import full, judged
from record_builders import cell, headings_and_lines
from rich.console import Console

from tpprof.profiler.commands.flops import plan_table
from tpprof.profiler.cost.conventions import convention_named
from tpprof.profiler.cost.planning import Planner
from tpprof.profiler.gate.tolerances import CellTolerance, tolerances_table
from tpprof.profiler.machine.calibration import named
from tpprof.reports.gate.render import gate_table, print_gate
from tpprof.reports.record.schema import Energy, Memory, Record
from tpprof.reports.record.spec import Workload
from tpprof.reports.text import side_by_side, waterfall
from tpprof.reports.text.phases import phases_table
from tpprof.reports.text.screen import LINE, PAGE, Screen
from tpprof.reports.text.table import Column, Table
from tpprof.reports.text.table7 import table7
from tpprof.reports.text.terminal import print_record

LONG = "sparsevlm:version=1.5,keep=320,tag=a-name-that-somebody-gave-to-a-run-of-theirs"


def long_record() -> Record:
    """All columns at once, and methods of long names, one of which failed."""
    run = full(rounds=700)
    run.cells[1].method = run.cells[2].method = LONG
    run.cells[3].runtime, run.cells[3].fallback = "graph", "needs a CUDA device"
    for one in run.cells:
        one.warmups, one.energy = [3.5, 1.0], Energy(joules=12.5, requests=3, seconds=2.0)
        one.memory = Memory(allocator=2**33, allocator_by_phase={"prefill": 2**33})
        for taken in one.samples:
            taken.host = {"vision": 0.01, "prefill": 0.2, "head": 0.1, "decode": 0.1}
        for taken in one.samples[::3]:
            taken.latency *= 1.7
    run.cells.append(cell(LONG + "-again", "rows", 1.0, 1, samples=[], error="no memory " * 40))
    return run


def terminal(width: int, *, wide: bool = False) -> Screen:
    return Screen(Console(width=width, force_terminal=True, file=io.StringIO()), wide)


def shown(screen: Screen) -> list[str]:
    """The lines on a screen, without colours."""
    assert isinstance(screen.console.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;]*m", "", screen.console.file.getvalue()).splitlines()


def characters(*texts: str) -> Counter[str]:
    counts = Counter("".join(texts))
    for empty in (" ", "\n", "─"):
        del counts[empty]
    return counts


def plan() -> Table[Any]:
    conventions = [convention_named("fastv"), convention_named("paper-kv")]
    planner = Planner("llava-next-7b", Workload(), peaks=named("h100"), conventions=conventions)
    planned = planner.table([LONG, "mustdrop:global_threshold=0.001"], None)
    return plan_table(planned, planner.peaks, conventions)


def tables() -> dict[str, Table[Any]]:
    run = long_record()
    second = full()
    told = waterfall.chosen(run, None).found
    return {
        "table 7": table7(run),
        "phases": phases_table(run),
        "side by side": side_by_side.side_by_side_table([run, second], ["a-long-name", "b"]),
        "waterfall": waterfall.explanation_table(told[:1]),
        "causes": waterfall.causes_table(told),
        "roofline": waterfall.roofline_table(run, [one for one, _ in told]),
        "gate": gate_table(judged(LONG)),
        "plan": plan(),
        "tolerances": tolerances_table([CellTolerance(LONG, "latency", 20, 0.1, 0.2, 0.25)]),
    }


@pytest.mark.parametrize("width", [20, 40, 80, 100, 160])
def test_no_table_is_wider_than_its_terminal(width: int) -> None:
    for name, table in tables().items():
        screen = terminal(width)
        screen.print_table(table)
        lines = shown(screen)
        assert max(map(len, lines)) <= width, name
        assert len(lines) > len(table.rows), name


def test_nothing_that_tpprof_prints_is_wider_than_80_columns() -> None:
    run = long_record()
    for show in (
        lambda screen: print_record(run, screen, by_phase=True),
        lambda screen: print_record(full(), screen),
        lambda screen: waterfall.print_explanations(run, screen, by_layer=True),
        lambda screen: waterfall.print_explanations(run, screen, LONG, by_layer=True),
        lambda screen: side_by_side.print_records([run, full()], ["a", "b"], screen),
        lambda screen: print_gate(judged(LONG), screen),
        lambda screen: screen.print_table(plan()),
    ):
        screen = terminal(80)
        show(screen)
        assert [line for line in shown(screen) if len(line) > 80] == []


@pytest.mark.parametrize("width", [80, 120, 200])
@pytest.mark.parametrize("make", [full, long_record])
def test_all_columns_of_table_7_are_printed_on_every_terminal(make: Any, width: int) -> None:
    table, screen = table7(make()), terminal(width)
    screen.print_grid(table)
    grid, _, note = "\n".join(shown(screen)).partition("--wide adds: ")
    left_out = [named.strip() for named in " ".join(note.split()).split(",") if named]
    columns, (headings, lines) = table.visible(), headings_and_lines(table)
    told = [n for n, column in enumerate(columns) if column.named not in left_out]
    assert all(columns[n].wide for n in set(range(len(columns))) - set(told))
    texts = [line[n] for line in lines for n in told]
    assert characters(grid) == characters(*(headings[n] for n in told), *texts)


def test_a_narrow_table_7_has_two_lines_for_a_row() -> None:
    screen = terminal(80)
    screen.print_grid(table7(full()))
    lines = shown(screen)
    rule = next(n for n, line in enumerate(lines) if set(line) == {"─"})
    head, (first, second, empty) = lines[1:rule], lines[rule + 1 : rule + 4]
    assert (head[1].split()[0], head[-1].split()[0]) == ("method", "attention")
    assert first.split()[:4] == ["vanilla", "2880", "/", "2880"]
    assert second.split()[:2] == ["-", "1.50"]
    assert empty == ""
    place = head[-1].index("±5 %)") + len("±5 %)")
    assert place == second.index("1.00x") + len("1.00x")
    left_out = "speed-up claimed, speed-up by floors, time it can touch, of the promised speed-up"
    assert f"--wide adds: {left_out}" in " ".join(" ".join(lines).split())


def test_numbers_are_not_torn() -> None:
    """Neither a number from its unit, nor one line from the next, at 80 columns."""
    screen = terminal(80)
    screen.print_table(plan())
    told = " ".join(shown(screen))
    for text in ("44.66 TFLOPs", "13.16 GiB", "1,512 MB", "100.0 %"):
        assert text in told


def test_why_a_row_failed_stands_beside_its_name() -> None:
    screen = terminal(80)
    run = full()
    run.cells.append(cell("random", "rows", 1.0, 1, samples=[], error="no memory " * 40))
    screen.print_grid(table7(run))
    lines = shown(screen)
    place = next(n for n, line in enumerate(lines) if line.startswith("random"))
    assert lines[place].startswith("random     failed: no memory no memory")
    assert lines[place + 1].startswith("rows       no memory")
    told = " ".join(line[11:].strip() for line in lines[place:])
    assert told.count("no memory") == 40


def test_what_is_left_out_is_told_and_comes_back_with_wide() -> None:
    table = tables()["waterfall"]
    narrow, wide, roomy = terminal(80), terminal(80, wide=True), terminal(300)
    for screen in (narrow, wide, roomy):
        screen.print_table(table)
    assert "█" not in "".join(shown(narrow))
    assert "--wide adds: bars" in shown(narrow)
    assert shown(wide) == shown(roomy)
    assert "█" in "".join(shown(wide))


def test_wide_is_for_tables_alone() -> None:
    screen = terminal(80, wide=True)
    print_record(full(), screen)
    long = [line for line in shown(screen) if len(line) > 80]
    assert len(long) == 4 + 3, "four cells, two lines of headings and a rule"


def test_a_pipe_gets_the_table_as_wide_as_it_is() -> None:
    screen = Screen(Console(width=PAGE, file=io.StringIO()))
    print_record(full(), screen)
    lines = shown(screen)
    head = next(line for line in lines if line.startswith(" method"))
    assert head.split()[0] == "method"
    assert head.split()[-1] == "(process)"
    prose = [line for line in lines if not line.startswith(" ")]
    assert 80 < max(map(len, prose)) <= LINE


def test_what_stands_under_a_column_names_one_to_its_left() -> None:
    for name, table in tables().items():
        for number, column in enumerate(table.columns):
            left = [other.heading for other in table.columns[:number]]
            assert not column.under or column.under in left, (name, column.heading)


def test_stacks_follow_what_is_declared() -> None:
    columns = [
        Column[int]("name", lambda n: f"row {n}", kind="words"),
        Column[int]("above", lambda n: "1" * 30),
        Column[int]("below", lambda n: "2" * 30, under="above"),
        Column[int]("alone", lambda n: "3" * 30, under="not here"),
    ]
    lines = Table(columns, [1, 2]).to_rich(80).plain.split("\n")
    assert [line.split() for line in lines if line and not line.startswith("─")] == [
        ["name", "above", "alone"],
        ["below"],
        ["row", "1", "1" * 30, "3" * 30],
        ["2" * 30],
        ["row", "2", "1" * 30, "3" * 30],
        ["2" * 30],
    ]


def test_what_does_not_fit_follows_below_behind_the_names() -> None:
    columns = [Column[int]("name", lambda n: f"row {n}", kind="words")]
    columns += [Column[int](f"figure {k}", lambda n: "1" * 20) for k in range(7)]
    lines = Table(columns, [1, 2]).to_rich(80).plain.split("\n")
    heads = [line.split() for line in lines if "name" in line]
    assert len(heads) == 3
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("row 1") for line in lines) == 3


def test_the_last_line_says_which_method_is_fastest() -> None:
    screen = terminal(100)
    print_record(full(), screen)
    said = (
        "mustdrop with rows is fastest: 2.22x (2.22 to 2.22), in 1.12x the time that FLOPs promise."
    )
    assert shown(screen)[-1] == said
    assert table7(full()).to_markdown().splitlines()[-1] == said
    assert said not in table7(full()).to_latex()
