"""The section that shows several records side by side."""

from __future__ import annotations

from collections.abc import Sequence

from ..analysis.run_view import RunView
from ..figures import side_by_side
from ..text.side_by_side import side_by_side_table
from .blocks import Figure, Section, TableBlock


def compared(subjects: Sequence[RunView], names: Sequence[str]) -> Section:
    """Latency and speed-ups of all records, aligned by method."""
    table = side_by_side_table(
        [subject.record for subject in subjects],
        names,
        [subject.rows for subject in subjects],
        warnings=(),
    )
    chart = side_by_side.chart(subjects, names)
    return Section(
        id="beside",
        title="Side by side",
        figures=[Figure.of(chart, "all")] if chart else [],
        tables=[TableBlock.of(table, sortable=True)],
        notes=table.notes,
    )
