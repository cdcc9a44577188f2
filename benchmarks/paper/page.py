"""What came out, as Markdown: whether it is as the paper says, and all tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tpprof.methods.contract.errors import InputError
from tpprof.reports.analysis.intervals import Estimate
from tpprof.reports.analysis.summary import Row, rows
from tpprof.reports.figures.canvas import save, style
from tpprof.reports.record.schema import Record
from tpprof.reports.text import table7
from tpprof.reports.text.accuracy import scores_table
from tpprof.reports.text.table import Column, Table

from . import figures
from .questions import ALPHAS
from .results import Difference, Position, Results, TableResult, sign

TABLE_7 = (
    "method",
    "attention",
    "visual tokens",
    "latency",
    "speed-up measured",
    "speed-up promised",
    "speed-up claimed",
    "F1 (",
    "FLOPs",
    "KV",
)
"""Beginnings of the headings of Table 7 that the page has."""


@dataclass(frozen=True)
class Claim:
    """What the paper says of two methods, and where it is looked up. wanted: the sign of the first
    less the second, 0 for "no worse"."""

    said: str
    table: str
    first: str
    second: str
    wanted: int = 1


CLAIMS = (
    Claim("Table 1: random selection beats FastV", "table-1", "random", "fastv"),
    Claim("Table 1: pooling beats FastV", "table-1", "pooling", "fastv"),
    Claim("Table 1: random selection beats SparseVLM", "table-1", "random", "sparsevlm"),
    Claim("Table 1: pooling beats SparseVLM", "table-1", "pooling", "sparsevlm"),
    Claim("Section 4.2: FastV in windows beats FastV", "table-1", "fastv-window", "fastv"),
    Claim("Reversed FastV is no worse than FastV", "table-1", "fastv-reverse", "fastv", 0),
    Claim("Table 4: random selection beats FastV", "table-4", "random", "fastv"),
    Claim("Table 4: pooling beats FastV", "table-4", "pooling", "fastv"),
    Claim("Table 4: FastV in windows beats FastV", "table-4", "fastv-window", "fastv"),
    Claim("Section 5: guidance by text helps, POPE", "table-1", "fastv-vis", "fastv", -1),
    Claim("Table 5: guidance by text helps", "table-5", "fastv-vis", "fastv", -1),
    Claim("Table 6: a mixture beats attention alone", "table-6", ALPHAS[2], ALPHAS[-1]),
    Claim("Table 6: a mixture beats dissimilarity alone", "table-6", ALPHAS[2], ALPHAS[0]),
)
WORDS = {1: "yes", -1: "no", 0: "not told apart"}


@dataclass(frozen=True)
class Finding:
    """A line of what comes out."""

    said: str
    here: str
    told: str


def record_beside(path: Path) -> Path:
    """The record of Table 7, beside the results."""
    return path.with_name(f"{path.stem}-table-7.json")


def draw(results: Results, record: Record | None, target: Path) -> None:
    """Write the pictures beside the page. Raises OutputError."""
    with style():
        for chart in figures.charts(results, record):
            chart.name = f"{stem_of(results, target.stem)}-{chart.name}"
            save(chart, target.parent, ["svg"], overwrite=True)


def replaced(text: str, results: Results, record: Record | None, stem: str) -> str:
    """The page with what lies between the marks of the model printed anew. Raises InputError for a
    page without them."""
    begin, end = marks(results)
    before, begun, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not begun or not ended:
        raise InputError(f"the page has no {begin} ... {end} to write between")
    return f"{before}{begin}\n\n{printed(results, record, stem)}\n{end}{after}"


def marks(results: Results) -> tuple[str, str]:
    name = Path(results.model).name
    return f"<!-- {name}: printed -->", f"<!-- {name}: end -->"


def printed(results: Results, record: Record | None, stem: str = "paper-questions") -> str:
    """All of it. stem: of the page, which the names of its pictures begin with."""
    own = stem_of(results, stem)
    with style():
        drawn = {
            chart.name: f"![{chart.about}]({own}-{chart.name}.svg)"
            for chart in figures.charts(results, record)
        }
    parts = ["### What comes out", _asked_of(results), _findings(results).to_markdown()]
    parts.append(drawn.pop("table-1", ""))
    for name in dict.fromkeys(table.name for table in results.tables):
        for budget in results.budgets:
            table = results.table(name, budget)
            parts += _table(table, results.rule) if table is not None else []
        parts.append(drawn.pop(name, ""))
    parts += [*_figure_2(results), drawn.pop("figure-2", "")]
    if record is not None:
        told = "time, FLOPs, KV cache and F1" if record.accuracy else "time, FLOPs and KV cache"
        parts += [f"### Table 7: {told}", _table_7(record)]
        parts.append(drawn.pop("table-7", ""))
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def stem_of(results: Results, stem: str) -> str:
    return f"{stem}-{Path(results.model).name}"


def _asked_of(results: Results) -> str:
    exams = {t.benchmark: (sum(t.questions.values()), t.source) for t in results.tables}
    asked = "; ".join(f"{name}: {count} about {of}" for name, (count, of) in exams.items())
    return f"`{results.command}`. Questions: {asked}. F1 by the rule `{results.rule}`."


def _findings(results: Results) -> Table[Finding]:
    found = [_finding(claim, results) for claim in CLAIMS]
    found += [_leaning(results, method) for method in ("fastv", "fastv-vis")]
    return Table(
        [
            Column("the paper says", lambda r: r.said, kind="words"),
            Column("here", lambda r: r.here, kind="words"),
            Column("F1, and the first less the second", lambda r: r.told),
        ],
        [finding for finding in found if finding is not None],
    )


def _finding(claim: Claim, results: Results) -> Finding | None:
    """None where it was not looked for."""
    tables = [results.table(claim.table, budget) for budget in results.budgets]
    known = [table for table in tables if table is not None]
    if not known:
        return None
    blind = next((table.blind for table in known if table.blind), "")
    if blind:
        return Finding(claim.said, "not asked", "the unpruned model answers by chance")
    verdicts, told = [], []
    for table in known:
        pair = (claim.first, claim.second)
        found = next((d for d in table.differences if (d.first, d.second) == pair), None)
        if found is None:
            return None
        verdicts.append(_verdict(claim, found))
        told.append(f"at {table.budget}: {_both(table, found)}")
    return Finding(claim.said, _joined(verdicts, results.budgets), "; ".join(told))


def _verdict(claim: Claim, found: Difference) -> str:
    if found.estimate is None or found.estimate.low is None:
        return "n/a"
    if claim.wanted == 0:
        return "no" if found.apart < 0 else "yes"
    return WORDS[claim.wanted * found.apart]


def _both(table: TableResult, found: Difference) -> str:
    told = []
    for method in (found.first, found.second):
        score = table.score(method)
        f1 = "n/a" if score is None or score.f1 is None else f"{score.f1.value:.3f}"
        told.append(f"{method} {f1}")
    return f"{', '.join(told)}: {_told(found.estimate)}"


def _leaning(results: Results, method: str) -> Finding | None:
    held = [position for position in results.positions if position.method == method]
    told = "; ".join(f"at {p.budget}: offset {_told(p.offset)}" for p in held)
    if not held:
        return None
    verdict = _joined([WORDS[sign(p.offset)] for p in held], [p.budget for p in held])
    return Finding(f"Figure 2: tokens that {method} keeps lean to the end", verdict, told)


def _joined(verdicts: Sequence[str], budgets: Sequence[int]) -> str:
    if len(set(verdicts)) == 1:
        return verdicts[0]
    return "; ".join(f"at {b}: {v}" for b, v in zip(budgets, verdicts, strict=True))


def _table(table: TableResult, rule: str) -> list[str]:
    title = f"### {table.title}, {table.budget} of 576 visual tokens"
    if table.blind:
        return [title, table.blind]
    shown = [scores_table(table.scores, table.questions, rule).to_markdown()]
    if table.differences:
        shown.append(_differences(table.differences).to_markdown())
    return [title, *shown]


def _differences(listed: Sequence[Difference]) -> Table[Difference]:
    return Table(
        [
            Column("method", lambda r: r.first, kind="words"),
            Column("less", lambda r: r.second, kind="words"),
            Column("F1 difference", lambda r: _told(r.estimate)),
            Column("told apart", lambda r: "yes" if r.apart else "no", kind="words"),
        ],
        listed,
    )


def _figure_2(results: Results) -> list[str]:
    parts = []
    for budget in results.budgets:
        held = [position for position in results.positions if position.budget == budget]
        if held:
            title = f"### Figure 2: where kept tokens lie, {budget} of 576 visual tokens"
            parts += [title, _positions(held).to_markdown()]
    return parts


def _positions(held: Sequence[Position]) -> Table[Position]:
    return Table(
        [
            Column("method", lambda r: r.method, kind="words"),
            Column("pictures", lambda r: str(r.pictures)),
            Column("thirds, top to bottom", lambda r: " / ".join(f"{t:.2f}" for t in r.thirds)),
            Column("offset (0 is even)", lambda r: _told(r.offset)),
            Column("divergence, bit", lambda r: f"{r.divergence:.3f}"),
            Column("by chance, bit", lambda r: f"{r.by_chance:.3f}"),
        ],
        held,
    )


def _table_7(record: Record) -> str:
    columns: list[Column[Row]] = [
        column
        for begin in TABLE_7
        for column in table7.columns(record)
        if " ".join(column.heading.split()).startswith(begin) and column.shown
    ]
    return Table(columns, rows(record)).to_markdown()


def _told(estimate: Estimate | None) -> str:
    if estimate is None or estimate.low is None or estimate.high is None:
        return "n/a"
    return f"{estimate.value:+.3f} ({estimate.low:+.3f} to {estimate.high:+.3f})"
