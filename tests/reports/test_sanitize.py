"""Text from outside is harmless in every format."""

from __future__ import annotations

import csv
import io
import json
import re
from xml.etree import ElementTree as Xml

import pytest
from page_records import full
from record_builders import cell, record
from rich.console import Console

from tpprof.reports.gate.render import as_json, as_junit, as_summary, from_json, print_gate
from tpprof.reports.gate.verdicts import Gate, Judged, Verdict
from tpprof.reports.page.render import render
from tpprof.reports.record.schema import Record
from tpprof.reports.sanitize import for_csv, for_markdown, one_line, say
from tpprof.reports.text import side_by_side, terminal, waterfall
from tpprof.reports.text.screen import Screen
from tpprof.reports.text.table7 import table7

EVIL = (
    "\x1b]0;title\x07\x1b[31m\x9b2J\x00\x7f\u202eevil\u2066\u2028\u2029\x85\ufeff\r\nforged"
    "<script>alert(1)</script>[/b][link](javascript:x)`*_$"
)
OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028]"
)


@pytest.fixture
def evil() -> Record:
    run = full()
    run.model.name = run.model.source = run.command = run.environment.device = EVIL
    run.environment.warnings = [EVIL]
    for at, row in enumerate(run.cells):
        row.note, row.missing = EVIL, {EVIL: EVIL}
        if at:
            row.method = row.name = f"{EVIL}{at}"
    run.cells[-1].error, run.cells[-1].samples = EVIL, []
    run.request.notes = [EVIL]
    return run


@pytest.mark.parametrize("form", ["to_json", "to_csv", "to_markdown", "to_latex", "to_long"])
def test_tables(evil: Record, form: str) -> None:
    written = getattr(table7(evil), form)()
    assert "evil" in written
    assert not OBEYED.search(written), repr(OBEYED.search(written))
    if form == "to_markdown":
        assert "<script" not in written
        assert not re.search(r"[^\\](\\\\)*\]\(javascript", written)
    if form == "to_json":
        assert any(EVIL in str(row["method"]) for row in json.loads(written)), "programs get all"


def test_a_terminal_obeys_nothing_of_it(evil: Record) -> None:
    page = io.StringIO()
    screen = Screen(Console(file=page, width=120, color_system=None))
    terminal.print_record(evil, screen, by_phase=True)
    side_by_side.print_records([evil, evil], [EVIL, "b"], screen)
    waterfall.print_explanations(evil, screen, None)
    assert "evil" in page.getvalue()
    assert not OBEYED.search(page.getvalue())
    assert not OBEYED.search(waterfall.as_markdown(evil, None))


def test_a_page_runs_nothing_of_it(evil: Record) -> None:
    page = render([evil, evil], [EVIL, "b"], _gate())
    shown = re.sub(r'href="data:[^"]*"', "", page)
    assert not OBEYED.search(shown)
    assert "<script>alert" not in page


def _gate() -> Gate:
    row = Judged(EVIL, EVIL, Verdict.FAIL, EVIL, EVIL, EVIL, EVIL)
    return Gate("timing", EVIL, [row], [EVIL])


def test_what_a_gate_tells() -> None:
    gate = _gate()
    page = io.StringIO()
    print_gate(gate, Screen(Console(file=page, width=120, color_system=None)))
    junit, summary = as_junit(gate).decode(), as_summary(gate)
    for text in (page.getvalue(), junit, summary, as_json(gate).decode()):
        assert "evil" in text
        assert not OBEYED.search(text)
    Xml.fromstring(junit)
    assert "<script" not in summary
    assert from_json(as_json(gate)) == gate, "for programs all of it is there"


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t=", " =", "\u00a0=", "\uff1d", "\r\n@"])
def test_no_formula_in_csv(begin: str) -> None:
    assert str(for_csv(begin + "cmd|'/C calc'!A0")).startswith("'")
    run = record(cell("vanilla", "rows", 1.0, 1), cell(begin + "x", "rows", 1.0, 1))
    run.cells[1].cost[0].phase = begin + "phase"
    for row in csv.reader(io.StringIO(table7(run).to_csv())):
        assert not [text for text in row if re.match(r"\s*[=+@\uff1d]", text)]


def test_numbers_in_csv_stay_numbers() -> None:
    assert for_csv(-1.5) == -1.5
    assert for_csv("fastv:keep=9") == "fastv:keep=9"


def test_markdown_shows_what_it_is_given() -> None:
    assert for_markdown("fastv_dagger:keep=9") == "fastv_dagger:keep=9"
    assert for_markdown("_a_ <b> [c](d) & `e`") == r"\_a\_ &lt;b> \[c\](d) &amp; \`e\`"


def test_a_line_on_stderr_is_one_and_short(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\nb\x1b[31m" + "x" * 20_000 + " the end")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("a b\\x1b[31mx")
    assert line.endswith(" the end")
    assert len(line) <= 1000
    assert one_line("a\u202eb\ud800") == "a\\u202eb\\ud800"
