"""The formats of a table, and what one declaration of a column comes to."""

from __future__ import annotations

import copy
import csv
import dataclasses
import io
import json
from operator import itemgetter
from typing import Any

import pytest
from page_records import full
from record_builders import cell, headings_and_lines, record

from tpprof.profiler.commands.machine import calibration_table
from tpprof.profiler.commands.tokens import tokens_table
from tpprof.profiler.machine.datasheets import datasheet_of
from tpprof.profiler.run.kept_tokens import Seen
from tpprof.reports.analysis.position_bias import by_chance, divergence
from tpprof.reports.analysis.summary import Row
from tpprof.reports.page.render import render
from tpprof.reports.record.frame import COLUMNS
from tpprof.reports.record.kept import Kept
from tpprof.reports.record.schema import Bandwidth, Peaks
from tpprof.reports.text import side_by_side, table7
from tpprof.reports.text.table import Column, Table, for_programs


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
    long = table7.table7(run).to_long()
    assert "\n'=cmd()," in long
    assert "\n=cmd()" not in long


def test_the_table_of_a_run_has_as_many_columns_in_every_line_of_latex() -> None:
    table = table7.table7(full())
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


def test_a_column_is_added_by_declaring_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """One Column, and every format, the terminal, the page and its glossary have it."""
    declared = table7.columns
    new = Column[Row](
        "cells\nper hour",
        lambda row: f"{row.cell.method} {3600 / row.latency.value:,.0f}" if row.latency else "n/a",
        {"per_hour": lambda row: 3600 / row.latency.value if row.latency else None},
        "How many requests an hour holds.",
        under="FLOPs",
    )
    monkeypatch.setattr(table7, "columns", lambda record: [*declared(record), new])
    run = full()
    table = table7.table7(run)
    texts = [new.text(row) for row in table.rows]
    assert [row["per_hour"] for row in json.loads(table.to_json())] == pytest.approx(
        [3600 / row.latency.value for row in table.rows if row.latency]
    )
    assert [float(row["per_hour"]) for row in csv.DictReader(io.StringIO(table.to_csv()))]
    for told in (
        table.to_markdown(),
        table.to_latex(),
        table.to_rich(220, whole=True).plain,
        table.to_rich(80).plain,
        render([run], ["a run"]),
    ):
        assert "per hour" in told
        assert all(text in told for text in texts)
    assert "<dt>cells per hour</dt><dd>How many requests an hour holds.</dd>" in told


def test_what_is_nested_is_one_level_in_csv() -> None:
    rows = [
        {"counts": [3, 3, 1], "shares": {"a": 0.5, "b": "=1"}, "none": None},
        {"counts": None, "shares": {}, "none": None},
    ]
    columns = [
        Column[dict[str, Any]](
            "counts", lambda r: "3, 3, 1", {"counts": lambda r: r["counts"]}, kind="words"
        ),
        for_programs("shares", itemgetter("shares")),
        for_programs("none", itemgetter("none")),
    ]
    table = Table(columns, rows)
    assert table.to_values() == rows
    assert table.to_csv().splitlines() == [
        "counts,shares_a,shares_b,none",
        '"3, 3, 1",0.5,\'=1,',
        ",,,",
    ]


def test_people_do_not_see_what_nobody_knows_and_programs_do() -> None:
    columns = [
        Column[int]("a", str, {"a": int}),
        Column[int]("b", lambda _: "n/a", {"b": lambda _: None}, optional=True),
        Column[int]("c", lambda _: "n/a", {"c": lambda _: None}),
        Column[int]("d", lambda _: "x", {"d": lambda _: 1}, shown=False),
        Column[int]("", lambda _: "#", kind="drawing"),
    ]
    table = Table(columns, [1])
    assert [column.heading for column in table.visible()] == ["a", "c"]
    assert [column.heading for column in table.visible(drawings=True)] == ["a", "c", ""]
    assert table.to_values() == [{"a": 1, "b": None, "c": None, "d": 1}]


def test_nothing_in_markdown_becomes_a_tag() -> None:
    told = made(["a<b>", "c"], [["<img>", "1 | 2\n3"]])
    told = dataclasses.replace(told, warnings=["<script>"], closing="<i>").to_markdown()
    assert "<" not in told.replace("&lt;", "")
    assert "1 \\| 2 3" in told


def test_a_calibration_is_a_table_for_people_and_a_row_for_programs() -> None:
    peaks = Peaks(
        device="NVIDIA H100 80GB HBM3",
        source="measured",
        flops_per_second={"bfloat16": 7e14},
        bandwidth=[
            Bandwidth(footprint_bytes=2**22, bytes_per_second=5e12),
            Bandwidth(footprint_bytes=2**30, bytes_per_second=3e12),
        ],
        kernel_seconds=1e-6,
        memory_bytes=80 * 2**30,
    )
    table = calibration_table(peaks, datasheet_of(peaks.device))
    assert table.lines()[:3] == [
        ["bfloat16 products", "700.0 TFLOP/s", "989.4 TFLOP/s"],
        ["bandwidth on 4 MiB", "5,000 GB/s", ""],
        ["bandwidth on 1024 MiB", "3,000 GB/s", "3,350 GB/s"],
    ]
    (row,) = csv.DictReader(io.StringIO(table.to_csv()))
    assert list(row) == [
        "device",
        "bfloat16_flops_per_second",
        "bytes_per_second_on_4194304_bytes",
        "bytes_per_second_on_1073741824_bytes",
        "kernel_seconds",
        "launch_seconds",
        "memory_bytes",
    ]


def test_tokens_are_a_row_for_every_method_and_prune() -> None:
    kept = [
        Kept(layer=0, visual=8, tokens=list(range(8))),
        Kept(layer=2, visual=8, tokens=[6, 7], merged=1),
    ]
    table = tokens_table([Seen("fastv", "a.jpg", kept), Seen("fastv", "b.jpg", kept)])
    (line,) = table.lines()
    assert line[:6] == ["fastv", "2", "2", "2", "1", "+0.857"]
    last = kept[-1:] * 2
    assert line[6:] == [f"{divergence(last):.3f}", f"{by_chance(last):.3f}"]
    (row,) = table.to_values()
    assert list(row) == [
        "method",
        "layer",
        "prompts",
        "kept",
        "kept_by_picture",
        "merged",
        "visual",
        "offset",
        "divergence_bits",
        "divergence_by_chance_bits",
    ]


def test_tokens_of_several_pictures_are_counted_picture_by_picture() -> None:
    """Of prompts whose pictures differ in size, by where those of each lie."""
    one = [Kept(layer=2, visual=8, tokens=[0, 3, 6, 7], merged=1)]
    other = [Kept(layer=2, visual=9, tokens=[0, 5, 6, 8])]
    seen = [Seen("fastv", "a.jpg", one, (2, 4, 2)), Seen("fastv", "b.jpg", other, (6, 1, 2))]
    table = tokens_table(seen)
    assert table.lines()[0][:6] == ["fastv", "2", "2", "4", "1.5, 1, 1.5", "0"]
    assert table.to_values()[0]["kept_by_picture"] == [1.5, 1.0, 1.5]


def test_one_record_twice_is_told() -> None:
    one = record(cell("vanilla", "rows", 1.0, 4))
    told = side_by_side.warnings([one, copy.deepcopy(one)], ["a", "b"])
    assert told == ["b is the same record as a: there is nothing to compare."]
