"""Draw the pictures of README and docs from a saved record, or a fresh run: what the terminal shows
and the figures."""

from __future__ import annotations

import argparse
import io
import re
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

import tpprof
from tpprof.reports.analysis.run_view import RunView
from tpprof.reports.figures import layers, promise, stacks
from tpprof.reports.figures.canvas import save, style
from tpprof.reports.figures.waterfall import chart
from tpprof.reports.record.files import load
from tpprof.reports.record.schema import Record
from tpprof.reports.text import terminal, waterfall
from tpprof.reports.text.screen import Screen

METHODS = ("fastv", "sparsevlm", "mustdrop")
EXPLAINED = "fastv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="the folder of the pictures")
    parser.add_argument("--record", type=Path, help="a saved record; default: measure now")
    options = parser.parse_args()
    record = load(options.record) if options.record else tpprof.compare(METHODS)

    def draw(name: str, title: str, show: Callable[[Record, Screen], None], width: int) -> None:
        console = Console(width=width, record=True, file=io.StringIO())
        show(record, Screen(console))
        (options.out / name).write_text(without_fonts(console.export_svg(title=title)))

    draw("compare.svg", "tpprof compare " + " ".join(METHODS), terminal.print_record, 160)
    title = f"tpprof explain RUN.json {EXPLAINED}"
    draw("explain.svg", title, lambda r, s: waterfall.print_explanations(r, s, EXPLAINED), 150)
    subject = RunView(record)
    with style():
        charts = [promise.chart(subject), stacks.phases(subject), layers.time(subject)]
        charts += [chart(*subject.explained[0], 0)] if subject.explained else []
        for drawn in charts:
            if drawn is not None:
                save(drawn, options.out, kinds=["svg"], overwrite=True)


def without_fonts(svg: str) -> str:
    """The picture without fonts from elsewhere: it loads nothing."""
    local = re.sub(r"@font-face \{[^}]*\}", "", svg)
    return local.replace("Fira Code", "DejaVu Sans Mono, Menlo, Consolas")


if __name__ == "__main__":
    main()
