"""Render a saved record, or a fresh run, as the picture in the README: the real terminal output."""

from __future__ import annotations

import argparse
import io
import re
from pathlib import Path

from rich.console import Console

import tpprof
from tpprof.reports.files import load
from tpprof.reports.terminal import show


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="the SVG to write")
    parser.add_argument("--record", type=Path, help="a saved record; default: measure now")
    options = parser.parse_args()
    methods = ("fastv", "sparsevlm", "mustdrop")
    record = load(options.record) if options.record else tpprof.compare(methods)
    console = Console(width=160, record=True, file=io.StringIO())
    show(record, console)
    title = "tpprof compare " + " ".join(methods)
    options.out.write_text(without_fonts(console.export_svg(title=title)))


def without_fonts(svg: str) -> str:
    """The picture without fonts from elsewhere: it loads nothing."""
    local = re.sub(r"@font-face \{[^}]*\}", "", svg)
    return local.replace("Fira Code", "DejaVu Sans Mono, Menlo, Consolas")


if __name__ == "__main__":
    main()
