"""A sweep as one HTML file."""

from __future__ import annotations

from ..figures.canvas import style
from ..page.blocks import Figure, Section, TableBlock
from ..page.render import render_sections
from .figures import accuracy, memory, speedups
from .grid import Sweep
from .rows import grid_rows
from .tables import best_table, grid_table


def render_sweep(sweep: Sweep, name: str) -> str:
    """The page: Pareto panels, the fastest for each budget, and every cell."""
    listed = grid_rows(sweep)
    table = grid_table(sweep, listed)
    with style():
        charts = [chart for draw in (speedups, memory, accuracy) if (chart := draw(sweep, listed))]
        figures = [Figure.of(chart, "sweep") for chart in charts]
    best = best_table(sweep, listed)
    sections = [
        Section(
            id="pareto",
            title="Speed, memory and what stays",
            lead="Each point is a cell; a line joins the budgets of a method. Right keeps more.",
            figures=figures,
        ),
        Section(
            id="best",
            title="The fastest for each budget",
            tables=[TableBlock.of(best, sortable=True)] if best.rows else [],
            lead="" if best.rows else "Nothing was measured yet.",
        ),
        Section(id="grid", title="Every cell", tables=[TableBlock.of(table, sortable=True)]),
    ]
    return render_sections(name, sections, table.warnings)
