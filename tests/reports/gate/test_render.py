"""How a gate is told: table, Markdown, JSON, JUnit XML, and gate.toml."""

from __future__ import annotations

import html.parser
import json
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree as Xml

import junitparser
import pytest
from markdown_it import MarkdownIt

from tpprof.reports.gate import render
from tpprof.reports.gate.config import Config, load_config, save_config
from tpprof.reports.gate.rules import Rules
from tpprof.reports.gate.verdicts import Gate, Judged, Verdict, accepted, nothing
from tpprof.reports.outputs import OutputError
from tpprof.reports.record.base import RecordError
from tpprof.reports.record.spec import Subject
from tpprof.reports.text.screen import open_screen

ODD = 'a|b <script> & "quoted"\x00\x1b[31m\nnext'


@pytest.fixture
def gate() -> Gate:
    """A row of each verdict, with texts that no format likes."""
    rows = [
        Judged(f"cell {n} {ODD}", "latency ms", verdict, "1.00", "1.10", "+10 %", ODD)
        for n, verdict in enumerate(Verdict)
    ]
    return Gate("timing", "base -> head", rows, [f"a note {ODD}"])


def attributes(element: Xml.Element, required: set[str], optional: set[str]) -> None:
    assert required <= set(element.attrib) <= required | optional, element.tag


def test_junit_has_the_usual_structure(gate: Gate) -> None:
    """What the XSD of Jenkins' xunit plug-in and GitLab ask for."""
    root = Xml.fromstring(render.as_junit(gate))
    assert root.tag == "testsuites"
    totals = {"tests", "failures", "errors", "skipped"}
    attributes(root, {"name", *totals}, {"time"})
    (suite,) = root
    assert suite.tag == "testsuite"
    attributes(suite, {"name", *totals}, {"time", "timestamp", "hostname"})
    cases = [child for child in suite if child.tag == "testcase"]
    assert {child.tag for child in suite} == {"testcase", "system-out"}
    assert list(suite)[-1].tag == "system-out", "behind the cases"
    for case in cases:
        attributes(case, {"classname", "name", "time"}, set())
        assert float(case.attrib["time"]) >= 0
        assert len(case) <= 1
        for outcome in case:
            assert outcome.tag in ("failure", "error", "skipped")
            attributes(outcome, {"message"}, {"type"})
    inside = [outcome.tag for case in cases for outcome in case]
    assert inside.count("failure") == 1 == inside.count("error")
    assert inside.count("skipped") == 2, "inconclusive, and what is not judged"
    for element in (root, suite):
        assert int(element.attrib["tests"]) == len(cases) == len(gate.rows)
        assert int(element.attrib["failures"]) == inside.count("failure")
        assert int(element.attrib["errors"]) == inside.count("error")
        assert int(element.attrib["skipped"]) == inside.count("skipped")


def test_the_summary_renders(gate: Gate, tmp_path: Path) -> None:
    path = tmp_path / "new" / "summary.md"
    render.append_summary(gate, path)
    render.append_summary(gate, path)
    text = path.read_text()
    assert text.count("### tpprof gate: FAIL") == 2, "appended"
    assert text.count("<details>") == text.count("</details>") == 2
    tables = [line for line in text.splitlines() if line.startswith("| ")]
    for line in tables:
        assert line.replace("\\|", "").count("|") == len(render.COLUMNS) + 1, line
    assert "a note" in text
    assert "<script>" not in text


class Tags(html.parser.HTMLParser):
    """How often each tag is opened."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.counts[tag] += 1


def test_the_summary_renders_as_github_does(gate: Gate) -> None:
    """By CommonMark with tables, HTML allowed: two tables, every row a row, nothing beside."""
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(render.as_summary(gate))
    counts = Tags(page).counts
    assert counts["table"] == 2
    assert counts["tr"] == len(gate.rows) + 2
    assert counts["td"] == len(gate.rows) * len(render.COLUMNS)
    assert (counts["details"], counts["script"]) == (1, 0)


def test_a_summary_that_cannot_be_written_is_one_line(gate: Gate, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        render.append_summary(gate, tmp_path / "file" / "summary.md")


def test_junit_is_read_by_others(gate: Gate, tmp_path: Path) -> None:
    path = tmp_path / "junit.xml"
    path.write_bytes(render.as_junit(gate))
    (suite,) = junitparser.JUnitXml.fromfile(str(path))
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (7, 1, 1, 2)
    results = {case.classname.split()[1]: case.result for case in suite}
    kinds = {n: type(found[0]) for n, found in results.items() if found}
    numbers = {verdict: str(n) for n, verdict in enumerate(Verdict)}
    assert kinds == {
        numbers[Verdict.FAIL]: junitparser.Failure,
        numbers[Verdict.NO_VERDICT]: junitparser.Error,
        numbers[Verdict.INCONCLUSIVE]: junitparser.Skipped,
        numbers[Verdict.NOT_JUDGED]: junitparser.Skipped,
    }


def test_the_table_says_by_which_rule(gate: Gate, capsys: pytest.CaptureFixture[str]) -> None:
    gate.rows = [Judged("fastv", "latency ms", Verdict.FAIL, "1.00", "1.10", "+10 %", "too slow")]
    render.print_gate(gate, open_screen())
    printed = capsys.readouterr().out
    for word in ("fastv", "FAIL", "1.00", "1.10", "+10 %", "too slow", "a regression"):
        assert word in printed


def test_json_holds_all(gate: Gate) -> None:
    plain = json.loads(render.as_json(gate))
    assert (plain["verdict"], plain["exit_code"], plain["kind"]) == ("FAIL", 1, "timing")
    assert [row["verdict"] for row in plain["rows"]] == [verdict.value for verdict in Verdict]


def test_json_comes_back(gate: Gate) -> None:
    assert render.from_json(render.as_json(gate)) == gate
    for wrong in (
        b"{",
        b'{"schema": 1}',
        render.as_json(gate).replace(b'"schema": 1', b'"schema": 2'),
    ):
        with pytest.raises(RecordError, match=r"damaged|unknown"):
            render.from_json(wrong)


def test_rows_as_text(gate: Gate) -> None:
    table = render.gate_table(gate)
    assert {len(line) for line in table.lines()} == {len(table.visible())}


@pytest.mark.parametrize("verdict", list(Verdict))
def test_the_codes(verdict: Verdict) -> None:
    row = Judged("c", "m", verdict, "", "", "", "")
    codes = {Verdict.FAIL: 1, Verdict.NO_VERDICT: 3, Verdict.INCONCLUSIVE: 4, Verdict.NOT_JUDGED: 3}
    assert Gate("exact", "", [row]).code == codes.get(verdict, 0)


def test_nothing_is_no_pass_and_what_is_accepted_is_none_either() -> None:
    assert nothing("exact", "", "reason").code == 3
    rows = [Judged("c", "m", verdict, "", "", "", "") for verdict in Verdict]
    assert Gate("exact", "", accepted(rows)).verdict is Verdict.ACCEPTED


def test_gate_toml_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    subject = Subject.of(
        methods=["fastv:keep=320"],
        plugin=['own \\ "method".py'],
        keep="1/9",
        new_tokens=2,
        prompt="What? 😀 \x7f\n",
    )
    config = Config(schema=2, subject=subject, rules=Rules(tolerance={"latency": 0.03}))
    save_config(config, path)
    read = load_config(path)
    assert read.rules == config.rules
    assert read.subject == subject


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("schema = 2\n[subject", "is no TOML"),
        ("schema = 3", "schema 3 is unknown"),
        ("", "schema None is unknown"),
        ("schema = 2\n[subject.cells]\nmethods = 3", "methods|array"),
        (
            'schema = 2\n[subject.cells]\nmethods = ["a"]\n[rules.tolerance]\nlatency = -1.0',
            "above 0",
        ),
        ('schema = 2\n[subject.cells]\nmethods = ["a"]\n[rules]\nspeed = 1', "unknown field"),
        ("schema = 2\n[subject.cells]\nmethods = []\n[rules]", "gate.toml: .*names no method"),
        ("schema = 2\n[subject.cells]\n[rules]", "names no method"),
        (
            'schema = 2\n[subject.cells]\nmethods = ["a"]\n[rules.floor]\nlatency = 3600.0',
            "gate.toml: floor of latency must be from 0 to 0.001 s",
        ),
    ],
)
def test_a_wrong_gate_toml_is_one_line(text: str, wrong: str, tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    path.write_text(text)
    with pytest.raises(RecordError, match=wrong):
        load_config(path)
    with pytest.raises(RecordError, match="gate init"):
        load_config(tmp_path / "none.toml")
