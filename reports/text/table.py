"""One table for all: columns declared once, written as JSON, CSV, Markdown, LaTeX and lines."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import msgspec

from .. import units
from ..sanitize import for_csv, for_json, for_latex, for_markdown, one_line, visible

if TYPE_CHECKING:
    import pandas
    from rich.text import Text

RowT = TypeVar("RowT")
Kind = Literal["words", "number", "drawing"]
"""What a column holds: words stand to the left, numbers to the right; a drawing is for terminals
alone."""
Tone = Literal["", "good", "warned", "bad", "strong"]
LONGEST = 2000
"""Characters of a text in a row."""
Values = Mapping[str, Callable[[RowT], Any]]


@dataclass(frozen=True)
class Column(Generic[RowT]):
    """A column, declared once for people and for programs."""

    heading: str
    """May have a line break."""
    text: Callable[[RowT], str]
    """How a row reads."""
    values: Values[RowT] = field(default_factory=dict)
    """What programs get of a row, by key, in SI units; always, whatever people see."""
    about: str = ""
    """What it means, as the page's glossary says it."""
    kind: Kind = "number"
    term: str = ""
    """The words of the heading that `about` explains, where it holds more than them."""
    shown: bool = True
    """Whether it has something to tell people."""
    optional: bool = False
    """Left out for people where nothing is known in any row."""
    under: str = ""
    """The heading of the column that it stands under where the terminal is narrow."""
    wide: bool = False
    """Left out where the terminal is narrow."""
    tone: Callable[[RowT], Tone] | None = None
    """The colour of a row in this column, by what it means."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "heading", visible(self.heading))  # it may be a record's name

    def read(self, row: RowT) -> str:
        """How a row reads, on one line, with nothing in it that a terminal obeys."""
        return one_line(self.text(row), LONGEST)

    @property
    def named(self) -> str:
        """What it is called in running text."""
        return self.term or " ".join(self.heading.split())


@dataclass(frozen=True)
class Table(Generic[RowT]):
    """Rows, and the columns that tell of them."""

    columns: Sequence[Column[RowT]]
    rows: Sequence[RowT]
    warnings: Sequence[str] = ()
    """What to know first; stands above."""
    notes: Sequence[str] = ()
    """What the columns mean; stands below, on a terminal."""
    closing: str = ""
    """What it comes to, in one sentence: the last line."""
    failure: Callable[[RowT], str] | None = None
    """Why a row has no numbers, in their place; "" for one that has them."""
    programs: Table[Any] | None = None
    """What programs get, where they read other rows than people do."""
    frame: Callable[[], pandas.DataFrame] | None = None
    """The samples behind it, one row each."""

    def visible(self, *, drawings: bool = False) -> list[Column[RowT]]:
        """The columns that people see."""
        return [
            column
            for column in self.columns
            if column.shown
            and (drawings or column.kind != "drawing")
            and not (column.optional and all(column.read(row) == units.NA for row in self.rows))
        ]

    def failed(self, row: RowT) -> str:
        """Why a row has no numbers; "" for one that has them."""
        return one_line(self.failure(row), LONGEST) if self.failure else ""

    def lines(self) -> list[list[str]]:
        """The visible texts of every row; a failed one has its names, and then why."""
        columns = self.visible()
        found = []
        for row in self.rows:
            line = [column.read(row) for column in columns]
            if why := self.failed(row):
                names = min(count_names(columns), len(columns) - 1)
                line = [*line[:names], why, *[""] * (len(columns) - names - 1)]
            found.append(line)
        return found

    def to_values(self) -> list[dict[str, Any]]:
        """The rows as plain values in SI units."""
        if self.programs is not None:
            return self.programs.to_values()
        return [
            {name: value(row) for column in self.columns for name, value in column.values.items()}
            for row in self.rows
        ]

    def to_json(self) -> str:
        content = msgspec.json.encode(self.to_values())
        return for_json(msgspec.json.format(content, indent=2).decode()) + "\n"

    def to_csv(self) -> str:
        """One level: what is nested is named after its place, a list is what people read."""
        if self.programs is not None:
            return self.programs.to_csv()
        rows = [self._flat(row) for row in self.rows]
        declared = [name for column in self.columns for name in column.values]
        names = list(dict.fromkeys(name for row in rows for name in row)) if rows else declared
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, fieldnames=names, lineterminator="\n")
        writer.writerow({name: for_csv(name) for name in names})
        writer.writerows(rows)
        return buffer.getvalue()

    def _flat(self, row: RowT) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for column in self.columns:
            for name, value in column.values.items():
                given = value(row)
                if isinstance(given, Mapping):
                    found |= {f"{name}_{key}": for_csv(part) for key, part in given.items()}
                else:
                    listed = isinstance(given, (list, tuple))
                    found[name] = for_csv(column.read(row) if listed else given)
        return found

    def to_long(self) -> str:
        """The samples behind it as CSV."""
        if self.frame is None:
            return ""
        frame = self.frame()
        texts = frame.select_dtypes(include=["object", "string"]).columns
        safe = frame.assign(**{name: frame[name].map(for_csv) for name in texts})
        return str(safe.to_csv(index=False))

    def to_markdown(self) -> str:
        """A Markdown table, with what to know first above it and what it comes to below; nothing in
        a cell ends it, or becomes a tag."""
        columns = self.visible()
        texts = [[column.heading for column in columns], *self.lines()]
        safe = [[for_markdown(text).replace("|", "\\|") for text in line] for line in texts]
        safe.insert(1, ["---"] * len(columns))
        grid = "".join(f"| {' | '.join(line)} |\n" for line in safe)
        above = "".join(f"> {for_markdown(warning)}\n\n" for warning in self.warnings)
        return above + grid + (f"\n{for_markdown(self.closing)}\n" if self.closing else "")

    def to_latex(self) -> str:
        """A LaTeX table for the package booktabs. A heading of two lines becomes two rows of
        headings."""
        columns = self.visible()
        split = [[*column.heading.split("\n"), ""][:2] for column in columns]
        first, second = ([for_latex(pair[row]) for pair in split] for row in (0, 1))
        heads = [first, second] if any(second) else [first]
        body = [[for_latex(text) for text in line] for line in self.lines()]
        for row in (*heads[1:], *body):  # else an argument of the line break before it
            if row and row[0].lstrip().startswith(("[", "*")):
                row[0] = "{}" + row[0]
        rows = [" & ".join(line) + r" \\" for line in heads]
        rows += [r"\midrule", *(" & ".join(line) + r" \\" for line in body)]
        inner = "\n".join(rows)
        sides = "".join("l" if column.kind == "words" else "r" for column in columns)
        return (
            f"% \\usepackage{{booktabs}}\n\\begin{{tabular}}{{{sides}}}\n\\toprule\n{inner}\n"
            "\\bottomrule\n\\end{tabular}\n"
        )

    def to_rich(self, width: int, *, whole: bool = False) -> Text:
        """Lines of at most `width` for a terminal: where it is narrow, columns that declare it
        stand under others, or are left out, and texts are broken. whole: all columns side by side,
        though the lines become longer."""
        from .layout import lay_out

        return lay_out(self, width, whole=whole)


def for_programs(name: str, value: Callable[[RowT], Any]) -> Column[RowT]:
    """A column that people do not see."""
    return Column(name, lambda row: str(value(row)), {name: value}, shown=False)


def count_names(columns: Sequence[Column[Any]]) -> int:
    """How many columns of words come first: what a row is called."""
    kinds = [column.kind == "words" for column in columns]
    return kinds.index(False) if False in kinds else len(kinds)
