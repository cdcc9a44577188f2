"""Paper and pens of all figures: one width, one set of colours, one way into a page or a file.

In a page the colours become CSS variables, so that a figure follows light and dark; values to be
hovered over become `<title>`s, which every browser shows, with scripts or without.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..outputs import write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.8  # inches: a phone's width, at which the letters are still read
INK, MUTED, GRID = "#1f2328", "#59636e", "#d1d9e0"
SERIES = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#b65a91",
    "#a87a00",
    "#2f8fc4",
    "#6f5fb3",
    "#7f7f7f",
)
"""Okabe and Ito's colours, which the colour-blind tell apart, darkened to be read on white."""
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid"} | {
    colour: f"s{place_axes}" for place_axes, colour in enumerate(SERIES)
}
STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9.5,
    "axes.edgecolor": GRID,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "path.simplify": False,
    "figure.dpi": 72,
    "savefig.dpi": 200,
}


@dataclass
class Chart:
    """A figure: the stem of its file, its title, what it shows in words, and what to hover over.

    tips: texts by the id (gid) of the artist that they belong to. note: what it leaves out.
    """

    name: str
    title: str
    about: str
    figure: Figure
    tips: dict[str, str] = field(default_factory=dict)
    note: str = ""

    def tip(self, artist: Any, text: str) -> None:
        """Show `text` where `artist` is hovered over."""
        gid = f"tip{len(self.tips)}"
        artist.set_gid(gid)
        self.tips[gid] = text


@contextmanager
def style() -> Iterator[None]:
    """The house style, in force inside. What no font holds (emoji, scripts) is drawn as a box in
    PNG and PDF, and by the browser in a page: no warning."""
    import matplotlib

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def blank(height: float, *, width: float = WIDTH) -> Figure:
    """An empty figure of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def place_axes(figure: Figure, left: float, bottom: float, right: float, top: float) -> Axes:
    """Axes with so many inches around them."""
    width, height = figure.get_size_inches()
    box = (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)
    return figure.add_axes(box)


def short(text: str, most: int = 34) -> str:
    """`text` on one line and not longer than `most`; the middle is what goes."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(line) <= most:
        return line
    return f"{line[: most - most // 3 - 1]}…{line[-(most // 3) :]}"


def left_out(shown: int, known: int, what: str = "rows") -> str:
    """Says how many are not in a chart that holds the first `shown`; empty where all are."""
    return f"The first {shown} of {known} {what}." if known > shown else ""


def key(
    figure: Figure, entries: Sequence[tuple[str, str]], *, top: float, marks: Sequence[str] = ()
) -> None:
    """A key in lines from `top` inches below the upper edge on: a mark and a word each. marks: of
    the entries in turn; where they end, squares."""
    width, height = figure.get_size_inches()
    for number, (word, colour) in enumerate(entries):
        x, line = _seats(entries)[number]
        y, mark = height - top - 0.18 * line, marks[number] if number < len(marks) else "■"
        figure.text(x / width, y / height, mark, color=colour, va="center", size=9)
        figure.text((x + 0.14) / width, y / height, word, color=MUTED, va="center", size=9.2)


def key_lines(entries: Sequence[tuple[str, str]]) -> int:
    """How many lines `key` takes."""
    return _seats(entries)[-1][1] + 1 if entries else 1


def _seats(entries: Sequence[tuple[str, str]]) -> list[tuple[float, int]]:
    """Where the entries of a key stand: inches from the left, and the line."""
    seats, x, line = [], 0.1, 0
    for word, _ in entries:
        reach = 0.24 + 0.081 * len(word)
        if x + reach > WIDTH and x > 0.1:
            x, line = 0.1, line + 1
        seats.append((x, line))
        x += reach
    return seats


UNDATED: dict[str, dict[str, Any]] = {
    "png": {"Software": "tpprof"},
    "pdf": {"CreationDate": None, "Creator": "tpprof"},
    "svg": {"Date": None, "Creator": "tpprof"},
}


def save(
    chart: Chart, folder: Path, kinds: Sequence[str] = ("png", "pdf"), *, overwrite: bool = False
) -> list[Path]:
    """Write the chart in each of the kinds (png, pdf, svg); returns the files, or raises
    OutputError."""
    import matplotlib

    files = []
    with matplotlib.rc_context({"svg.hashsalt": chart.name}):
        for kind in kinds:
            files.append(folder / f"{chart.name}.{kind}")
            drawn = io.BytesIO()
            chart.figure.savefig(drawn, format=kind, facecolor="white", metadata=UNDATED[kind])
            write(files[-1], drawn.getvalue(), "figure", overwrite=overwrite)
    return files
