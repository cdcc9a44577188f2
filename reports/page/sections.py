"""The sections of the page, one function each: a subject in, a section out, or None where the
record has no data for it. To add one, write its function and list it in SECTIONS. The glossary
comes last, made from the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from ..analysis import published
from ..analysis.phases import of_cell
from ..analysis.run_view import RunView
from ..figures import accuracy, gallery, kept, layers, order, promise, roofline, stacks
from ..figures.canvas import Chart, left_out
from ..figures.overlay import views
from ..text import sentences
from ..text.accuracy import accuracy_table
from ..text.paper import paper_table
from ..text.phases import phases_table
from ..text.table import RowT, Table
from ..text.table7 import table7
from ..text.waterfall import causes_table, roofline_table
from .blocks import Figure, Section, TableBlock
from .glossary import cause_terms, glossary
from .surroundings import (
    by_layer_table,
    environment,
    everything_table,
    layer_times_table,
    memory_table,
)

PAPER = "The paper's Table 7, same budget: all of POPE; speed-ups and shares derived from it"
PICTURES = 24  # of kept tokens
Draw = Callable[[RunView], Chart | None]


def build(subject: RunView, salt: str) -> list[Section]:
    """All sections that the record has data for; `salt` keeps the ids of two records apart."""
    found = [section for make in SECTIONS if (section := make(subject, salt)) is not None]
    return [*found, glossary(found, subject.warnings)]


def _environment(subject: RunView, salt: str) -> Section:
    return Section(
        id="environment",
        title="What ran, on what",
        pairs=environment(subject.record),
        folded=[TableBlock.of(everything_table(subject.record), "All that the record says of it")],
    )


def _table7(subject: RunView, salt: str) -> Section:
    record, listed = subject.record, subject.rows
    tables = [TableBlock.of(table7(record, listed, subject.warnings), sortable=True)]
    link, lead = None, "Table 7 of this run: time beside FLOPs."
    if published.matches(record):
        tables.append(TableBlock.of(paper_table(), PAPER))
        link = (published.SOURCE, "the paper: Are We Solving the Right Problem?")
    return Section(
        id="table",
        title="Table 7",
        lead=lead,
        tables=tables,
        link=link,
        notes=sentences.footnotes(record, listed),
    )


def _promise(subject: RunView, salt: str) -> Section | None:
    lead = (
        "Each point is a method: right is what its FLOPs promise, up is what the clock says. On "
        "the dashed line the promise is kept; the figure at a point is how many times the "
        "promised time the request took. Colour: the method; mark: how attention was read; fill: "
        "the runtime."
    )
    return _drawn(subject, salt, "promise", "Promise and clock", lead, promise.chart)


def _accuracy(subject: RunView, salt: str) -> Section | None:
    answered = subject.record.accuracy
    if answered is None:
        return None
    lead = (
        "Each point is a method: right is what the clock says, up is F1 on "
        f"{len(answered.questions)} questions ({answered.source}). On the line lies what no other "
        "row beats in both. It shows what methods do to this model, and to no other."
    )
    chart = accuracy.chart(subject)
    table = accuracy_table(answered, subject.record.spec.accuracy.rule)
    return Section(
        id="accuracy",
        title="Answers and clock",
        headline=table.closing,
        lead=lead,
        figures=[Figure.of(chart, salt)] if chart else [],
        tables=[TableBlock.of(table)],
        notes=list(table.notes),
    )


def _phases(subject: RunView, salt: str) -> Section | None:
    lead = "A request from picture to last token. Pruning in the decoder shrinks its layers alone."
    return _drawn(subject, salt, "phases", "Where the time goes", lead, stacks.phases)


def _explanation(subject: RunView, salt: str) -> Section | None:
    if not subject.explained and not subject.unexplained:
        return None
    found = subject.explained
    charts = [Figure.of(chart, salt) for chart in gallery.waterfalls(subject)]
    told = [
        (cell.method + (f", {cell.attention}" if cell.reads_attention else ""), sentence)
        for cell, explanation in found
        for sentence in [*explanation.advice, *explanation.notes]
    ]
    merged: dict[str, list[str]] = {}
    for who, sentence in told:
        merged.setdefault(sentence, []).append(who)
    causes = dict.fromkeys(part.name for _, told in found for part in told.contributions)
    rows = left_out(len(subject.drawn), len(subject.measured), "measured rows are explained")
    notes = [*subject.unexplained, rows] if rows else subject.unexplained[:]
    if len(charts) < len(found):
        notes.append(f"Waterfalls of the first {len(charts)}; all {len(found)} side by side below.")
    return Section(
        id="explanation",
        title="Why FLOPs and time disagree",
        lead="From the time that papers claim, past the one that FLOPs promise phase by phase, to "
        "the time measured, cause by cause, in ms. "
        "Orange adds, green saves.",
        figures=charts,
        pairs=[(sentence, "; ".join(who)) for sentence, who in merged.items()],
        folded=[TableBlock.of(causes_table(found), "All causes, cell by cell, ms")]
        if found
        else [],
        notes=notes,
        terms=cause_terms(causes),
    )


def _tokens(subject: RunView, salt: str) -> Section | None:
    lead = "What enters each decoder layer, and what the KV cache holds of it after prefill."
    drawn = _drawn(subject, salt, "tokens", "Tokens and KV cache", lead, layers.tokens, layers.kv)
    return _folded(drawn, by_layer_table(subject.cells), "Tokens and KV cache in numbers")


def _layers(subject: RunView, salt: str) -> Section | None:
    lead = (
        "Bars: measured time of each decoder layer in prefill. Line: vanilla's time of that layer, "
        "times the share of its FLOPs that remains."
    )
    drawn = _drawn(subject, salt, "layers", "Layer by layer", lead, layers.time)
    return _folded(drawn, layer_times_table(subject), "Every layer in numbers")


def _memory(subject: RunView, salt: str) -> Section | None:
    lead = "The peak of one request; marks, where a GPU's allocator was read: the peak of a phase."
    drawn = _drawn(subject, salt, "memory", "Memory", lead, stacks.memory)
    return _folded(drawn, memory_table(subject.cells), "Allocator, process, device and KV cache")


def _order(subject: RunView, salt: str) -> Section | None:
    lead = (
        "Every sample when it was taken. A slope is drift; two bands are two speeds of one machine."
    )
    return _drawn(subject, salt, "order", "Run order", lead, order.chart)


def _roofline(subject: RunView, salt: str) -> Section | None:
    drawn = _drawn(
        subject,
        salt,
        "roofline",
        "Against the hardware",
        "Work per second over work per byte, under the roof of this device.",
        roofline.chart,
    )
    pruned = [cell for cell in subject.cells if cell.name != "vanilla"] or subject.cells
    if drawn is None:
        return None
    return _folded(
        drawn, roofline_table(subject.record, pruned), "Measured time over its floor, by phase"
    )


def _launches(subject: RunView, salt: str) -> Section | None:
    drawn = _drawn(
        subject,
        salt,
        "launches",
        "Launches and waits",
        "What the host asked of the device, phase by phase, counted in a pass of its own.",
        stacks.launches,
    )
    listed = [row for cell in subject.cells for row in of_cell(subject.record, cell)]
    table = phases_table(subject.record, listed, subject.warnings)
    return _folded(drawn, table, "Every phase of every cell")


def _kept(subject: RunView, salt: str) -> Section | None:
    listed = subject.kept
    if not listed:
        return None
    chart = kept.positions({method: entries[-1:] for method, entries in listed.items()})
    figures, note = [Figure.of(chart, salt)] if chart else [], ""
    picture = subject.record.picture
    if picture is not None:
        shown = [
            (method, entry, view)
            for method, entries in listed.items()
            for entry in entries
            for view in views(picture)
        ]
        figures += [Figure.of_picture(picture, *panel) for panel in shown[:PICTURES]]
        note = left_out(len(shown[:PICTURES]), len(shown), "pictures")
    lead = (
        "What is clear stays, what lies under the veil goes. Over the token index, at the last "
        "prune: 1 is an even choice; attention is that of the tokens which were still there."
    )
    notes = [note] if note else []
    return Section(id="kept", title="What is pruned", lead=lead, figures=figures, notes=notes)


def _folded(drawn: Section | None, table: Table[RowT], caption: str) -> Section | None:
    """The section with a table folded under its figures."""
    if drawn is None:
        return None
    return dataclasses.replace(drawn, folded=[TableBlock.of(table, caption)])


def _drawn(
    subject: RunView, salt: str, id_: str, title: str, lead: str, *draws: Draw
) -> Section | None:
    """A section of figures; None where none can be drawn."""
    charts = [chart for draw in draws if (chart := draw(subject)) is not None]
    if not charts:
        return None
    return Section(
        id=id_, title=title, lead=lead, figures=[Figure.of(chart, salt) for chart in charts]
    )


SECTIONS: tuple[Callable[[RunView, str], Section | None], ...] = (
    _environment,
    _table7,
    _promise,
    _accuracy,
    _phases,
    _explanation,
    _tokens,
    _layers,
    _memory,
    _order,
    _roofline,
    _launches,
    _kept,
)
