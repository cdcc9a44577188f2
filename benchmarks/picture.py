"""Render a saved record, or a fresh run, as the pictures in the README: real terminal output."""

from __future__ import annotations

import argparse
import io
import re
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

import tpprof
from tpprof.reports import terminal, waterfall
from tpprof.reports.files import load
from tpprof.reports.record import Record

METHODS = ("fastv", "sparsevlm", "mustdrop")
EXPLAINED = "fastv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where compare.svg and explain.svg go")
    parser.add_argument("--record", type=Path, help="a saved record; default: measure now")
    options = parser.parse_args()
    record = load(options.record) if options.record else tpprof.compare(METHODS)

    def draw(name: str, title: str, show: Callable[[Record, Console], None], width: int) -> None:
        console = Console(width=width, record=True, file=io.StringIO())
        show(record, console)
        (options.folder / name).write_text(without_fonts(console.export_svg(title=title)))

    draw("compare.svg", "tpprof compare " + " ".join(METHODS), terminal.show, 160)
    title = f"tpprof explain RUN.json {EXPLAINED}"
    draw("explain.svg", title, lambda r, c: waterfall.show(r, c, EXPLAINED), 150)


def without_fonts(svg: str) -> str:
    """The picture without fonts from elsewhere: it loads nothing."""
    local = re.sub(r"@font-face \{[^}]*\}", "", svg)
    return local.replace("Fira Code", "DejaVu Sans Mono, Menlo, Consolas")


if __name__ == "__main__":
    main()
