"""The glossary explains all that the page says of columns and causes, and nothing that it does not
say."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from page_records import full, hostile, judged
from record_builders import cell, record

from tpprof.reports.analysis.counterparts import counterparts_of
from tpprof.reports.analysis.explanation import CAUSES, STEPS, _sums
from tpprof.reports.analysis.run_view import RunView
from tpprof.reports.figures.canvas import style
from tpprof.reports.page.blocks import Heading, Section
from tpprof.reports.page.glossary import TERMS
from tpprof.reports.page.render import render
from tpprof.reports.page.sections import build
from tpprof.reports.record.schema import Activity, Energy, Record


def sections(run: Record) -> tuple[list[Section], dict[str, str]]:
    """The sections of a page but the glossary, and what that explains."""
    with style():
        *others, words = build(RunView(run), "r0")
    assert words.id == "glossary"
    return others, dict(words.pairs)


def headings(listed: list[Section]) -> list[Heading]:
    return [
        heading
        for section in listed
        for table in (*section.tables, *section.folded)
        for heading in table.headings
    ]


def told(page: str) -> str:
    """What a page says without its glossary, on one line."""
    own = re.sub(r'<section id="[^"]*-glossary".*?</section>', "", page, flags=re.DOTALL)
    own = re.sub(r"<(style|script)>.*?</\1>", "", own, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", own).split())


def watched() -> Record:
    """A run with all columns: runtimes, percentiles, energy, memory by phase."""
    run = full(rounds=700)
    run.cells[1].runtime, run.cells[1].fallback = "graph", "needs a CUDA device"
    run.model.layers = 32
    for one in run.cells:
        one.energy = Energy(joules=2.0, requests=1, seconds=1.0)
        one.memory.allocator_by_phase = {"prefill": 2**30}
    return run


def bare() -> Record:
    run = record(cell("vanilla", "rows", 1.0, 10))
    run.cells[0].kv_bytes_prefill = []
    return run


@pytest.mark.parametrize("make", [full, watched, bare, hostile])
def test_every_term_is_said_on_the_page(make: Callable[[], Record]) -> None:
    run = make()
    _, words = sections(run)
    said = told(render([run], ["a run"]))
    missing = [term for term in words if term not in said]
    assert missing == []


@pytest.mark.parametrize("make", [full, watched, bare, hostile])
def test_every_column_heading_is_explained(make: Callable[[], Record]) -> None:
    listed, words = sections(make())
    found = headings(listed)
    assert len(found) > 5
    for heading in found:
        text = " ".join(heading.text.split())
        if text:
            assert words[heading.term], text
            assert heading.term in text or heading.term == "cell", text


def test_every_cause_is_explained_in_its_own_words() -> None:
    run = full()
    _, words = sections(run)
    explained = [part.name for _, one in RunView(run).explained for part in one.contributions]
    assert {"attention maps", "layers before the prune", "remainder"} <= set(explained)
    for name in explained:
        own = {**STEPS, **CAUSES}[name]
        assert words[name] == f"{own[0].upper()}{own[1:]}."
    assert {"claimed", "promised", "measured"} <= set(words)
    assert "released code" not in words


def test_every_cause_that_there_can_be_has_words() -> None:
    run = full()
    for one in run.cells[1:]:
        one.activity = [
            Activity(phase="prefill", part="layer", index=layer, operators=1, busy_seconds=0.01)
            for layer in range(2)
        ]
    run.cells[1].attention = "published"
    beside = counterparts_of(run, run.cells[1])
    assert beside is not None
    causes = _sums(run, beside, [])
    assert set(causes) <= set(CAUSES)
    assert "released code" in causes
    assert "waiting for the host" in causes


def test_words_that_a_run_does_not_have_are_not_explained() -> None:
    _, words = sections(bare())
    for term in ("p95 ms", "runtimes", "attention maps", "suspect samples", "roof", "offset"):
        assert term not in words
    assert set(TERMS) - set(words), "declared, and not said"


def test_the_words_of_a_gate_are_explained_once() -> None:
    alone = render([], [], judged("mine"))
    assert "<dt>rule</dt>" in alone
    assert "<dt>verdict</dt>" in alone
    page = render([full(), full()], ["a", "b"], judged("mine"))
    assert page.count("<dt>rule</dt>") == 1
    assert page.count("<dt>over</dt>") == 1
    assert page.count('id="all-glossary"') == 1
    assert 'id="all-glossary"' not in render([full()], ["a"])
