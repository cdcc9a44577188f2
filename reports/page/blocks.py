"""What sections are made of: plain data, from which the template alone makes HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ..figures.canvas import Chart, short
from ..figures.kept import caption
from ..figures.overlay import jpeg, overlay
from ..figures.svg import svg
from ..record.kept import Kept, Picture

LONGEST = 240  # pixels of a picture
LINE = 30  # characters of a text that stays on one line of a table


@dataclass(frozen=True)
class Field:
    """A field of a table: its text, the number by which the column is sorted, how many columns it
    takes, and its tone (good, warned or bad)."""

    text: str
    number: float | None = None
    span: int = 1
    tone: str = ""

    @property
    def long(self) -> bool:
        """Whether its text is broken into lines."""
        return len(self.text) > LINE


@dataclass(frozen=True)
class Table:
    """A table; the first `words` columns hold text, the others numbers."""

    headings: Sequence[str]
    lines: Sequence[Sequence[Field]]
    words: int = 1
    caption: str = ""
    sortable: bool = False

    @classmethod
    def of(
        cls,
        headings: Sequence[str],
        lines: Sequence[Sequence[str]],
        *,
        words: int = 1,
        caption: str = "",
        sortable: bool = False,
    ) -> Table:
        """A table of texts, sorted by the number that a text begins with."""
        fields = [[Field(text, number(text)) for text in line] for line in lines]
        return cls(headings, fields, words, caption, sortable)


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
    words."""

    id: str
    title: str
    headline: str = ""
    tone: str = ""
    lead: str = ""
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    lines: Sequence[str] = ()
    pairs: Sequence[tuple[str, str]] = ()
    folded: Sequence[Table] = ()
    link: tuple[str, str] | None = None
    notes: Sequence[str] = ()

    @property
    def wide(self) -> bool:
        """Whether it needs the whole width: it holds more than one figure."""
        return len(self.figures) != 1 or bool(self.tables or self.pairs)


def number(text: str) -> float | None:
    """The number that `text` begins with; None if there is none."""
    word = text.replace(",", "").split(" ")[0].removesuffix("x")
    try:
        return float(word)
    except ValueError:
        return None
