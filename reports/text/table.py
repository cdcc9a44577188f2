"""Plain rows and texts as JSON, CSV, Markdown, LaTeX or an aligned table."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import pandas

Rows = Sequence[dict[str, Any]]
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a text begins with that a spreadsheet would run (OWASP: CSV injection)."""


def as_json(rows: Rows) -> str:
    return msgspec.json.format(msgspec.json.encode(rows), indent=2).decode() + "\n"


def as_csv(rows: Rows) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _no_formula(value) for name, value in row.items()} for row in rows)
    return buffer.getvalue()


def as_long(frame: pandas.DataFrame) -> str:
    """A frame as CSV."""
    texts = frame.select_dtypes(include=["object", "string"]).columns
    safe = frame.assign(**{name: frame[name].map(_no_formula) for name in texts})
    return str(safe.to_csv(index=False))


def as_markdown(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; bars and line breaks inside a cell are escaped."""
    table = [list(headings), ["---"] * len(headings), *lines]
    return "".join("| " + " | ".join(map(_escaped, line)) + " |\n" for line in table)


def as_latex(
    headings: Sequence[str], lines: Sequence[Sequence[str]], words: Collection[int] = (0,)
) -> str:
    """A LaTeX table for the package booktabs; the columns `words` hold text, the others numbers.

    A heading of two lines becomes two rows of headings.
    """
    split = [[*heading.split("\n"), ""][:2] for heading in headings]
    first, second = ([_for_latex(pair[row]) for pair in split] for row in (0, 1))
    heads = [first, second] if any(second) else [first]
    columns = "".join("l" if number in words else "r" for number in range(len(headings)))
    body = [[_for_latex(text) for text in line] for line in lines]
    for row in (*heads[1:], *body):  # else an argument of the line break before it
        if row and row[0].lstrip().startswith(("[", "*")):
            row[0] = "{}" + row[0]
    rows = [" & ".join(line) + r" \\" for line in heads]
    rows += [r"\midrule", *(" & ".join(line) + r" \\" for line in body)]
    inner = "\n".join(rows)
    return (
        f"% \\usepackage{{booktabs}}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{inner}\n"
        "\\bottomrule\n\\end{tabular}\n"
    )


def as_table(
    headings: Sequence[str], lines: Sequence[Sequence[str | Text]], words: Collection[int] = (0,)
) -> Table:
    """A table for the terminal; the columns `words` hold text, the others numbers."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for number, heading in enumerate(headings):
        justify: JustifyMethod = "left" if number in words else "right"
        table.add_column(heading, justify=justify, no_wrap=number == 0)
    for line in lines:
        table.add_row(*(Text(text) if isinstance(text, str) else text for text in line))
    return table


def console(width: int = 220) -> Console:
    """A page wide enough for any table: a narrower terminal wraps its lines, and cuts nothing."""
    return Console(width=max(width, Console().width))


LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "\n": " ",
    "\r": " ",
}


def _no_formula(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula, behind an apostrophe; numbers as they
    are."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def _for_latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)


def _escaped(text: str) -> str:
    return text.replace("\n", " ").replace("|", "\\|")
