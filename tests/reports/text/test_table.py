"""LaTeX, and the long form."""

from __future__ import annotations

from operator import itemgetter

import pytest
from page_records import full
from record_builders import headings_and_lines, record

from tpprof.reports.record.frame import COLUMNS
from tpprof.reports.text.table import Column, Table
from tpprof.reports.text.table7 import table7


def made(headings: list[str], lines: list[list[str]]) -> Table[list[str]]:
    """A table of texts, the first column of words."""
    columns = [
        Column[list[str]](heading, itemgetter(place), kind="number" if place else "words")
        for place, heading in enumerate(headings)
    ]
    return Table(columns, lines)


def test_latex_is_a_booktabs_table_with_its_specials_escaped() -> None:
    told = made(["a_b\n(c)", "d"], [["50 % & {x} \\ ~^#$", "±1\n2"]]).to_latex()
    assert told.splitlines() == [
        r"% \usepackage{booktabs}",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"a\_b & d \\",
        r"(c) &  \\",
        r"\midrule",
        r"50 \% \& \{x\} \textbackslash{} \textasciitilde{}\textasciicircum{}\#\$ & $\pm$1 2 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_a_row_of_latex_is_no_argument_of_the_line_before() -> None:
    told = made(["a\n[m]", "b"], [["[2pt]", "1"], ["*", "2"]]).to_latex()
    lines = [line for line in told.splitlines() if line.startswith(("[", "*"))]
    assert lines == []
    assert r"{}[2pt] & 1 \\" in told


def test_no_text_in_csv_is_a_formula() -> None:
    texts = ["=1+1", "+1", "-1", "@x", "plain"]
    columns = [
        Column[str]("a", str, {"a": str, "b": lambda _: -1.5}),
        Column[str]("", str, {}),
    ]
    (head, *lines) = Table(columns, texts).to_csv().splitlines()
    assert (head, lines) == (
        "a,b",
        ["'=1+1,-1.5", "'+1,-1.5", "'-1,-1.5", "'@x,-1.5", "plain,-1.5"],
    )
    run = full(rounds=1)
    run.cells[1].method = "=cmd()"
    long = table7(run).to_long()
    assert "\n'=cmd()," in long
    assert "\n=cmd()" not in long


def test_the_table_of_a_run_has_as_many_columns_in_every_line_of_latex() -> None:
    table = table7(full())
    headings, lines = headings_and_lines(table)
    told = table.to_latex().splitlines()
    rows = [line for line in told if line.endswith(r"\\")]
    assert {line.count(" & ") for line in rows} == {len(headings) - 1}
    assert len(rows) == 2 + len(lines)


def test_the_frame_has_a_row_for_every_sample_phase_and_method() -> None:
    run = full(rounds=6)
    frame = run.frame()
    phases = ["vision", "prefill", "head", "decode"]
    assert list(frame.columns) == list(COLUMNS)
    assert len(frame) == 4 * 6 * len(phases)
    assert frame["phase"].tolist()[:4] == phases
    first = frame[(frame["method"] == "fastv") & (frame["attention"] == "maps")].iloc[:4]
    assert first["seconds"].sum() == pytest.approx(sum(run.cells[1].samples[0].parts))
    assert first["latency_seconds"].tolist() == [run.cells[1].samples[0].latency] * 4
    assert frame[frame["method"] == "vanilla"]["attention"].isna().all()
    assert (frame["marks"] == "throttled (heat)").sum() == 4 * len(phases)


def test_the_frame_of_an_empty_record_is_empty() -> None:
    assert len(record().frame()) == 0
