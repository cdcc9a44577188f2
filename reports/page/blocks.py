"""What sections are made of: plain data, from which the template alone makes HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from ..figures.canvas import Chart, svg


@dataclass(frozen=True)
class Field:
    """A field of a table: its text, and the number by which the column is sorted."""

    text: str
    number: float | None = None


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
        cls, headings: Sequence[str], lines: Sequence[Sequence[str]], *, words: int = 1,
        caption: str = "", sortable: bool = False,
    ) -> Table:  # fmt: skip
        """A table of texts, sorted by the number that a text begins with."""
        fields = [[Field(text, number(text)) for text in line] for line in lines]
        return cls(headings, fields, words, caption, sortable)


@dataclass(frozen=True)
class Figure:
    """A chart of the page, or a picture: SVG that we made, its title and what it shows."""

    picture: Markup
    title: str
    about: str

    @classmethod
    def of(cls, chart: Chart, salt: str) -> Figure:
        """A chart, whose ids `salt` keeps apart from those of others."""
        drawn = svg(chart, f"{salt}-{chart.name}")
        return cls(Markup(drawn), chart.title, chart.about)  # noqa: S704 - escaped by canvas.svg


@dataclass(frozen=True)
class Section:
    """A part of the page: what stands first, figures, tables, lines of text, and what is folded
    away. link: an address and its words."""

    id: str
    title: str
    lead: str = ""
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    lines: Sequence[str] = ()
    pairs: Sequence[tuple[str, str]] = ()
    folded: Sequence[Table] = ()
    link: tuple[str, str] | None = None
    notes: Sequence[str] = field(default_factory=tuple)


def number(text: str) -> float | None:
    """The number that `text` begins with; None if there is none."""
    word = text.replace(",", "").split(" ")[0].removesuffix("x")
    try:
        return float(word)
    except ValueError:
        return None
