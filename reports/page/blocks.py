"""What sections are made of: plain data, from which the template alone makes HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ..figures.canvas import Chart, short
from ..figures.kept import caption
from ..figures.overlay import jpeg, overlay
from ..figures.svg import svg
from ..record.kept import Kept, Picture
from ..text.table import Column, RowT, Table, count_names

LONGEST = 240  # pixels of a picture
LINE = 30  # characters of a text that stays on one line of a table


@dataclass(frozen=True)
class Heading:
    """What stands above a column: its text, whether the column holds words, and the term in it that
    `about` explains."""

    text: str
    word: bool
    term: str
    about: str


@dataclass(frozen=True)
class Field:
    """A field of a table: its text, whether it is words, the number by which the column is sorted,
    how many columns it takes, and its tone (good, warned or bad)."""

    text: str
    word: bool = True
    number: float | None = None
    span: int = 1
    tone: str = ""

    @property
    def long(self) -> bool:
        """Whether its text is broken into lines."""
        return self.word and len(self.text) > LINE


@dataclass(frozen=True)
class TableBlock:
    """A table of the page."""

    headings: Sequence[Heading]
    lines: Sequence[Sequence[Field]]
    caption: str = ""
    sortable: bool = False

    @classmethod
    def of(cls, table: Table[RowT], caption: str = "", *, sortable: bool = False) -> TableBlock:
        """A table as people see it; a row without numbers says why across their columns."""
        columns = table.visible()
        headings = [Heading(c.heading, c.kind == "words", c.named, c.about) for c in columns]
        names = count_names(columns)
        lines = []
        for row in table.rows:
            fields = [_field(column, row) for column in columns]
            if why := table.failed(row):
                fields = [*fields[:names], Field(why, span=len(columns) - names)]
            lines.append(fields)
        return cls(headings, lines, caption, sortable)


@dataclass(frozen=True)
class Figure:
    """A chart of the page, or a picture: SVG that we made, its title, what it shows and what it
    leaves out."""

    picture: Markup
    title: str
    about: str
    note: str = ""

    @classmethod
    def of(cls, chart: Chart, salt: str) -> Figure:
        """A chart, whose ids `salt` keeps apart from those of others."""
        drawn = svg(chart, f"{salt}-{chart.name}")
        return cls(Markup(drawn), chart.title, chart.about, chart.note)

    @classmethod
    def of_picture(cls, picture: Picture, method: str, entry: Kept, view: str) -> Figure:
        """The picture as a method keeps it."""
        image = jpeg(overlay(picture, view, entry), LONGEST)
        about = f"{short(method)}, {caption(entry, view)}"
        drawn = Markup('<img alt="{}" src="data:image/jpeg;base64,{}">').format(about, image)
        return cls(drawn, about, about)


@dataclass(frozen=True)
class Section:
    """A part of the page: what stands first, figures, tables, lines of text, and what is folded
    away. headline: a verdict in a box, in a tone (good, warned or bad). link: an address and its
    words. terms: words that its figures show, and what they mean."""

    id: str
    title: str
    headline: str = ""
    tone: str = ""
    lead: str = ""
    figures: Sequence[Figure] = ()
    tables: Sequence[TableBlock] = ()
    lines: Sequence[str] = ()
    pairs: Sequence[tuple[str, str]] = ()
    folded: Sequence[TableBlock] = ()
    link: tuple[str, str] | None = None
    notes: Sequence[str] = ()
    terms: Sequence[tuple[str, str]] = ()

    @property
    def wide(self) -> bool:
        """Whether it needs the whole width: it holds more than one figure."""
        return len(self.figures) != 1 or bool(self.tables or self.pairs)


def _field(column: Column[RowT], row: RowT) -> Field:
    text, tone = column.read(row), column.tone(row) if column.tone else ""
    if column.kind == "words":
        return Field(text, tone=tone)
    first = next(iter(column.values.values()), None)
    value: Any = first(row) if first else None
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return Field(text, word=False, number=float(value) if plain else number(text), tone=tone)


def number(text: str) -> float | None:
    """The number that `text` begins with; None if there is none."""
    word = text.replace(",", "").split(" ")[0].removesuffix("x")
    try:
        return float(word)
    except ValueError:
        return None
