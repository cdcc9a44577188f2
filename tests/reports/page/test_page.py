"""The page: complete, self-contained, harmless, and the same for the same record."""

from __future__ import annotations

import base64
import gzip
import html.parser
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from page_records import HOSTILE, full, hostile, judged
from record_builders import cell, headings_and_lines, record

from tpprof.reports.analysis.run_view import MOST, RunView
from tpprof.reports.figures import gallery, kept, pairs
from tpprof.reports.gate.render import headline
from tpprof.reports.gate.verdicts import Gate
from tpprof.reports.page.gated import TITLES
from tpprof.reports.page.render import render
from tpprof.reports.page.sections import build
from tpprof.reports.record.schema import Preprocessing, Record
from tpprof.reports.record.spec import changed
from tpprof.reports.text import side_by_side

ALL = [
    "environment",
    "table",
    "promise",
    "phases",
    "explanation",
    "tokens",
    "layers",
    "memory",
    "order",
    "roofline",
    "launches",
    "kept",
    "glossary",
]
LOADS = ("src", "srcset", "poster", "data", "action", "background")


class Parsed(html.parser.HTMLParser):
    """Elements and their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page() -> str:
    return render([full()], ["a run"])


def ids(run: Record) -> list[str]:
    return [section.id for section in build(RunView(run), "r0")]


def test_a_full_record_has_every_section() -> None:
    assert ids(full()) == ALL


def test_sections_without_data_are_absent() -> None:
    bare = record(cell("vanilla", "rows", 1.0, 10))
    bare.cells[0].visual_per_layer, bare.cells[0].kv_bytes_prefill = [], []
    bare.cells[0].memory.resident = None
    assert ids(bare) == ["environment", "table", "phases", "order", "glossary"]
    bare.cells[0].samples = []
    assert ids(bare) == ["environment", "table", "glossary"]
    assert "no speed-up to judge" in render([bare], ["bare"])


def test_an_explanation_that_fails_is_told_in_its_section() -> None:
    run = full()
    run.cells[3].cost = run.cells[3].cost[1:]  # as if a layer's cost were missing
    (section,) = [one for one in build(RunView(run), "r0") if one.id == "explanation"]
    assert section.notes[0].startswith("mustdrop with rows cannot be explained: KeyError")
    assert len(section.figures) == 2
    run.cells = [run.cells[0], run.cells[3]]
    (section,) = [one for one in build(RunView(run), "r0") if one.id == "explanation"]
    assert section.notes[0].startswith("mustdrop with rows cannot be explained: KeyError")
    assert section.figures == section.folded == []


def test_the_same_record_gives_the_same_bytes(page: str) -> None:
    assert render([full()], ["a run"]) == page


def test_it_loads_nothing(page: str) -> None:
    parsed = Parsed(page)
    for tag, given in parsed.elements:
        for name, value in given.items():
            address = (value or "").strip()
            if name in LOADS or (name == "href" and tag not in ("a",)):
                assert address.startswith(("data:", "#")), (tag, name, address[:80])
            assert not name.startswith("on"), (tag, name)
        assert tag not in ("iframe", "object", "embed", "base")
    assert [given for tag, given in parsed.elements if tag == "script"] == [{}]
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    ids = [given["id"] for _, given in parsed.elements if given.get("id")]
    assert len(ids) == len(set(ids))


def test_the_verdict_and_the_warnings_come_first(page: str) -> None:
    verdict, warning = page.index('class="headline"'), page.index('class="warnings"')
    assert verdict < warning < page.index("<section")
    assert "suspect samples: throttled (heat)" in page
    assert "mustdrop with rows is fastest" in page


def test_where_pictures_were_processed_is_said() -> None:
    run = full()
    assert "pictures processed" not in render([run], ["a"])
    processor = "LlavaNextImageProcessor"
    for device, apart, wanted in (
        ("host", None, f"on host by {processor} (pil)"),
        ("cuda:0", 1.04, f"on cuda:0 by {processor} (pil), at most 1.0 of 255 grey levels from"),
    ):
        run.request.preprocessing = Preprocessing(
            device=device, processor=processor, backend="pil", apart=apart
        )
        assert wanted in render([run], ["a"])


def test_the_numbers_of_a_figure_are_folded_under_it(page: str) -> None:
    assert "layer 0: 2880, layer 1: 320" in Parsed(page).text
    assert page.count("<summary>Every layer in numbers</summary>") == 1


def test_the_raw_record_is_in_it(page: str) -> None:
    found = re.search(r'href="data:application/gzip;base64,([^"]+)"', page)
    assert found is not None
    content = gzip.decompress(base64.b64decode(found[1]))
    assert msgspec.json.decode(content, type=Record) == full()


def test_a_run_of_ten_cells_stays_below_a_megabyte() -> None:
    run = full(rounds=200)
    listed = [run.cells[1 + number % 3] for number in range(9)]
    run.cells = run.cells[:1] + [
        msgspec.structs.replace(one, method=f"{one.method}:tag={n}") for n, one in enumerate(listed)
    ]
    assert len(render([run], ["ten"]).encode()) < 1_000_000


def test_hostile_names_do_no_harm() -> None:
    parsed = Parsed(render([hostile()], [HOSTILE[0]]))
    tags = [tag for tag, _ in parsed.elements]
    assert tags.count("script") == 1
    assert all("onerror" not in given for _, given in parsed.elements)
    assert all(given["src"].startswith("data:") for tag, given in parsed.elements if tag == "img")
    assert HOSTILE[0] in parsed.text, "shown as what it is"
    assert "{{ 7 * 7 }}" in parsed.text
    assert parsed.text.count("window.pwned") > 3


def test_every_picture_of_a_page_is_xml() -> None:
    page = render([full(), hostile()], [HOSTILE[0], HOSTILE[5]])
    found = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(found) > 20
    for picture in found:
        ElementTree.fromstring(picture)


def test_a_gate_stands_above_the_records() -> None:
    parsed = Parsed(render([full(), hostile()], ["base", "head"], judged("mine")))
    titles = [
        title for title in parsed.text.split("\n") if title in ("Side by side", *TITLES.values())
    ]
    assert titles == [TITLES["timing"], "Side by side"]


def test_a_gate_alone_is_a_page() -> None:
    gate = judged(HOSTILE[0])
    page = render([], [], gate)
    assert page == render([], [], gate)
    parsed = Parsed(page)
    tones = [given.get("class") for tag, given in parsed.elements if tag in ("div", "td")]
    assert "verdict bad" in tones, "the headline"
    assert tones.count("word bad") == 1, "the row that fails"
    assert headline(gate) in parsed.text
    for row in gate.rows:
        assert row.rule in parsed.text
    assert all("onerror" not in given for _, given in parsed.elements)


def test_a_chart_holds_every_pair_of_every_time() -> None:
    gate = judged("mine")
    chart = pairs.chart(gate)
    assert chart is not None
    timed = [row for row in gate.rows if row.values]
    drawn = [list(line.get_xdata()) for line in chart.figure.axes[0].lines]
    for row in timed:
        logs = row.values["log_ratios"]
        assert [pytest.approx(100 * (math.exp(log) - 1)) for log in logs] in drawn
    assert all(row.change in tip for row, tip in zip(timed, chart.tips.values(), strict=True))
    many = Gate("timing", "", timed * 20)
    assert pairs.chart(many).note == f"The first {pairs.MOST} of {20 * len(timed)} metrics."
    assert pairs.chart(Gate("exact", "", [row for row in gate.rows if not row.values])) is None


def test_cells_beyond_the_twelfth_are_told_and_not_drawn() -> None:
    run = record(cell("vanilla", "rows", 2.0, 10))
    run.cells += [cell(f"fastv:tag={n}", "rows", 1.0, 5) for n in range(40)]
    subject = RunView(run)
    assert len(subject.drawn) == MOST
    page = render([run], ["many"])
    assert page.count("<td") > 41
    notes = {
        chart.name: chart.note for draw in gallery.DRAWN if (chart := draw(subject)) is not None
    }
    assert notes["promise"] == "", "it draws all"
    assert notes["layers"] == "The first 6 of 40 rows."
    for name in ("order", "tokens", "kv"):
        assert notes[name] == "The first 12 of 41 rows.", name
    for name in ("phases", "memory"):
        assert notes[name] == "The first 36 of 41 rows.", name
    assert "The first 6 of 40 rows." in page
    for one in run.cells[1:]:
        one.kept = full().cells[1].kept
    drawn = kept.positions({m: entries[-1:] for m, entries in RunView(run).kept.items()})
    assert drawn is not None
    assert drawn.note == "The first 8 of 40 methods."


def test_the_papers_table_stands_beside_a_run_of_its_model_and_budget() -> None:
    run = full()
    assert "The paper&#39;s Table 7" not in render([run], ["x"])
    run.model.name, run.model.layers = "a folder", 32
    page = render([run], ["x"])
    assert "The paper&#39;s Table 7" in page
    assert "78.3" in page
    for one in run.cells[1:]:
        one.visual_per_layer = [2880, 1000]
    assert "The paper&#39;s Table 7" not in render([run], ["x"])


def test_several_records_stand_side_by_side_and_are_warned_of() -> None:
    first, second = full(), full()
    second.environment.device = "another machine"
    second.request.batch = 4
    second.cells = second.cells[:-1]
    names = ["a", "b"]
    warned = side_by_side.warnings([first, second], names)
    assert "not measure the same work" in warned[0]
    assert "request batch is 4, was 1" in warned[0]
    assert any("device is another machine, was a machine" in line for line in warned)
    page = render([first, second], names)
    assert page.index('id="all-beside"') < page.index('id="r0-table"') < page.index('id="r1-table"')
    parsed = Parsed(page)
    ids = [given["id"] for _, given in parsed.elements if given.get("id")]
    assert len(ids) == len(set(ids))


def test_methods_are_aligned_and_what_one_lacks_is_not_known() -> None:
    first, second = full(), full()
    second.cells = second.cells[:-1]
    table = side_by_side.side_by_side_table([first, second], ["a", "b"])
    rows = table.to_values()
    lacking = [row for row in rows if row["method"] == "mustdrop" and row["record"] == "b"]
    assert [row["latency_seconds"] for row in lacking] == [None]
    headings, lines = headings_and_lines(table)
    assert headings[-1] == "b\nover a"
    assert [line[-1] for line in lines] == ["1.00x (alike)"] * 3 + ["n/a"]


def test_times_of_other_work_have_no_ratio() -> None:
    first, second = full(), full()

    def ratios() -> list[str]:
        table = side_by_side.side_by_side_table([first, second], ["a", "b"])
        return [line[-1] for line in table.lines()]

    second.model.backend = "eager"
    assert ratios()[0] == "1.00x (alike)"
    second.request.new_tokens = 9
    assert set(ratios()) == {"n/a"}


def test_rows_are_aligned_by_what_they_ran_under() -> None:
    first, second = full(), full()
    second.cells[1].runtime, second.cells[1].fallback = "graph", "no such device"
    assert [
        len([row for row in rows if row])
        for _, rows in side_by_side.aligned([RunView(run).rows for run in (first, second)])
    ] == [2, 2, 2, 2]


def test_only_what_differs_is_told() -> None:
    first, second = full(), full()
    same = {f"package-{number}": "1.0" for number in range(50)}
    first.environment.packages = {**same, "torch": "2.13.0+cpu"}
    second.environment.packages = {**same, "torch": "2.1"}
    second.cells = second.cells[:-1]
    first.spec = changed(first.spec, prompt="a" * 200 + "b")
    second.spec = changed(second.spec, prompt="a" * 200 + "c")
    told = " ".join(side_by_side.warnings([first, second], ["a", "b"]))
    assert "packages torch is 2.1, was 2.13.0+cpu" in told
    assert "package-1" not in told
    assert "cells: only in a: mustdrop (rows, eager)" in told
    assert "aac, was ..." in told
    second.cells = []
    first.cells = [cell(f"fastv:tag={number}", "rows", 1.0, 5) for number in range(9)]
    told = " ".join(side_by_side.warnings([first, second], ["a", "b"]))
    assert "fastv:tag=5 (rows, eager) and 3 more" in told


def test_names_are_never_the_same_and_always_a_folder() -> None:
    files = ["a/run.json", "b/run.json", "run (1).json", "run (2).json", ".", "..", "..json", "x"]
    names = side_by_side.names_of([Path(file) for file in files])
    assert len(set(names)) == len(files)
    assert all(name.strip(". ") for name in names)
    assert names[-1] == "x"
    assert side_by_side.names_of([Path("run.json")] * 2) == ["run (1)", "run (2)"]


def test_a_failed_cell_tells_why_across_its_row() -> None:
    run = full()
    run.cells.append(cell("random", "rows", 1.0, 1, samples=[], error="no memory " * 50))
    page = render([run], ["x"])
    table = page[page.index('id="r0-table"') : page.index('id="r0-promise"')]
    row = table[table.index('<td class="word">random') :]
    row = row[: row.index("</tr>")]
    assert row.count("<td") == 3
    columns = table[: table.index("</thead>")].count("<th scope")
    assert f'<td class="word long" colspan="{columns - 2}">failed: no memory' in row
