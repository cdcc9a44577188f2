"""The sections of the page, one function each: a subject in, a section out, or None where the
record has no data for it. To add one, write its function and list it in SECTIONS."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from ..analysis import published
from ..analysis.phases import of_cell
from ..analysis.run_view import RunView
from ..analysis.summary import Row
from ..figures import gallery, kept, layers, order, promise, roofline, stacks
from ..figures.canvas import Chart, left_out
from ..figures.overlay import views
from ..text import paper, phases, sentences, table7, waterfall
from .blocks import Field, Figure, Section, Table
from .glossary import GLOSSARY
from .surroundings import environment, everything, layers_texts, memory_texts, tokens_texts

PAPER = "The paper's Table 7, same budget: all of POPE; speed-ups and shares derived from it"
PICTURES = 24  # of kept tokens
Draw = Callable[[RunView], Chart | None]


def build(subject: RunView, salt: str) -> list[Section]:
    """All sections that the record has data for; `salt` keeps the ids of two records apart."""
    return [found for make in SECTIONS if (found := make(subject, salt)) is not None]


def _environment(subject: RunView, salt: str) -> Section:
    return Section(
        id="environment",
        title="What ran, on what",
        pairs=environment(subject.record),
        folded=[everything(subject.record)],
    )


def _table7(subject: RunView, salt: str) -> Section:
    record, listed = subject.record, subject.rows
    shown = [column for column in table7.columns(record, listed) if column.shown]
    lines = [_fields(shown, row) for row in listed]
    tables = [Table([c.heading for c in shown], lines, words=2, sortable=True)]
    link, lead = None, "Table 7 of this run: time beside FLOPs."
    if published.matches(record):
        tables.append(Table.of(*paper.texts(), caption=PAPER))
        link = (published.SOURCE, "the paper: Are We Solving the Right Problem?")
    return Section(
        id="table",
        title="Table 7",
        lead=lead,
        tables=tables,
        link=link,
        notes=sentences.footnotes(record, listed),
    )


def _fields(shown: list[table7.Column], row: Row) -> list[Field]:
    texts = table7.line(shown, row)
    if row.cell.error:
        return [*map(Field, texts[:2]), Field(texts[2], span=len(texts) - 2)]
    fields = []
    for column, words in zip(shown, texts, strict=True):
        value = next(iter(column.values.values()))(row)
        number = float(value) if isinstance(value, (int, float)) else None
        fields.append(Field(words, number))
    return fields


def _promise(subject: RunView, salt: str) -> Section | None:
    lead = (
        "Each point is a method: right is what its FLOPs promise, up is what the clock says. On "
        "the dashed line the promise is kept. The percentage is the share of the promised saving "
        "of time that came true. Colour: the method; mark: how attention was read; fill: the "
        "runtime."
    )
    return _drawn(subject, salt, "promise", "Promise and clock", lead, promise.chart)


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
    headings, lines = waterfall.side_by_side(found)
    rows = left_out(len(subject.drawn), len(subject.measured), "measured rows are explained")
    notes = [*subject.unexplained, rows] if rows else subject.unexplained[:]
    if len(charts) < len(found):
        notes.append(f"Waterfalls of the first {len(charts)}; all {len(found)} side by side below.")
    return Section(
        id="explanation",
        title="Why FLOPs and time disagree",
        lead="From the time that FLOPs promise to the time measured, cause by cause, in ms. "
        "Orange adds, green saves.",
        figures=charts,
        pairs=[(sentence, "; ".join(who)) for sentence, who in merged.items()],
        folded=[Table.of(headings, lines, caption="All causes side by side, ms")] if found else [],
        notes=notes,
    )


def _tokens(subject: RunView, salt: str) -> Section | None:
    lead = "What enters each decoder layer, and what the KV cache holds of it after prefill."
    drawn = _drawn(subject, salt, "tokens", "Tokens and KV cache", lead, layers.tokens, layers.kv)
    return _folded(drawn, tokens_texts(subject.cells), 4, "Tokens and KV cache in numbers")


def _layers(subject: RunView, salt: str) -> Section | None:
    lead = (
        "Bars: measured time of each decoder layer in prefill. Line: vanilla's time of that layer, "
        "times the share of its FLOPs that remains."
    )
    drawn = _drawn(subject, salt, "layers", "Layer by layer", lead, layers.time)
    return _folded(drawn, layers_texts(subject), 1, "Every layer in numbers")


def _memory(subject: RunView, salt: str) -> Section | None:
    lead = "The peak of one request; marks, where a GPU's allocator was read: the peak of a phase."
    drawn = _drawn(subject, salt, "memory", "Memory", lead, stacks.memory)
    caption = "Allocator, process, device and KV cache"
    return _folded(drawn, memory_texts(subject.cells), 2, caption)


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
    if drawn is None:
        return None
    pruned = [cell for cell in subject.cells if cell.name != "vanilla"] or subject.cells
    headings, lines = waterfall.roofline_texts(subject.record, pruned)
    folded = [Table.of(headings, lines, words=2, caption="Measured time over its floor, by phase")]
    return dataclasses.replace(drawn, folded=folded)


def _launches(subject: RunView, salt: str) -> Section | None:
    drawn = _drawn(
        subject,
        salt,
        "launches",
        "Launches and waits",
        "What the host asked of the device, phase by phase, counted in a pass of its own.",
        stacks.launches,
    )
    if drawn is None:
        return None
    listed = [row for cell in subject.cells for row in of_cell(subject.record, cell)]
    by_phase = Table.of(
        phases.HEADINGS, phases.lines(listed), words=4, caption="Every phase of every cell"
    )
    return dataclasses.replace(drawn, folded=[by_phase])


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


def _glossary(subject: RunView, salt: str) -> Section:
    return Section(id="glossary", title="What the words mean", pairs=list(GLOSSARY.items()))


def _folded(
    drawn: Section | None,
    told: tuple[Sequence[str], Sequence[Sequence[str]]],
    words: int,
    caption: str,
) -> Section | None:
    """The section with a table folded under its figures."""
    if drawn is None:
        return None
    return dataclasses.replace(drawn, folded=[Table.of(*told, words=words, caption=caption)])


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
    _phases,
    _explanation,
    _tokens,
    _layers,
    _memory,
    _order,
    _roofline,
    _launches,
    _kept,
    _glossary,
)
