"""Text from outside is harmless in every format."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import sys
import unicodedata
from xml.etree import ElementTree as Xml

import pytest
from markdown_it import MarkdownIt
from page_records import full
from record_builders import cell, record
from rich.console import Console

from tpprof.reports.gate.render import as_json, as_junit, as_summary, from_json, print_gate
from tpprof.reports.gate.verdicts import Gate, Judged, Verdict
from tpprof.reports.page.render import render
from tpprof.reports.record.schema import Record
from tpprof.reports.sanitize import for_csv, for_markdown, masked, one_line, say, visible
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


SHOWN = "\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
"""Signs of Arabic, Syriac and Kaithi, which Unicode counts among format controls, and all see."""


def test_nothing_is_unseen() -> None:
    """By Unicode's own tables: two names that differ do not look alike."""
    every = (chr(code) for code in range(sys.maxunicode + 1))
    unseen = [c for c in every if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    unseen += ["\u034f", "\u115f", "\u3164", "\uffa0", "\ufe0f", "\U000e01ef"]
    assert len(unseen) > 2000
    left = [c for c in unseen if c not in "\t\n" and visible(c) == c == masked(c)]
    assert [c for c in left if not re.match(f"[{SHOWN}]", c)] == []
    assert one_line("fast\u200bv") == r"fast\u200bv"


@pytest.mark.parametrize(
    "text",
    [
        *("https://e.example/x", "see HTTP://e.example", "www.e.example", "WWW.e.example"),
        *("a@e.example", "# head", "###### h", "- item", "+ item", "* item", "> quote", "1. x"),
        *("123456789) x", "===", "---", "***", "~~~", "    code", "\tcode", "[x]: https://e"),
        *("<https://e.example>", "ftp://e.example", "![x](https://e.example)", "# ", "-"),
    ],
)
def test_markdown_is_plain_text(text: str) -> None:
    """By CommonMark, as a paragraph of its own and in a table; nor is it what GitHub links."""
    reader = MarkdownIt("commonmark").enable("table")
    assert not re.search(r"://|www\.|[^\\]@", for_markdown(text), re.IGNORECASE)
    assert reader.render(for_markdown(text)) == f"<p>{html.escape(text.strip())}</p>\n"
    table = reader.render(f"| a |\n| --- |\n| {for_markdown(text)} |\n")
    assert f"<td>{html.escape(text.strip())}</td>" in table


@pytest.mark.parametrize("text", ["=1", " \u2003=1", "a;=1+1", "a; @x", ";-1+cmd|' /C calc'!A0"])
def test_no_cell_of_a_spreadsheet_is_a_formula(text: str) -> None:
    """Also where cells are separated by semicolons, as where a comma is that of decimals."""
    for cell_text in for_csv(text).split(";"):
        assert not cell_text.strip().startswith(("=", "+", "-", "@"))


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
