"""The section that shows several records side by side."""

from __future__ import annotations

from collections.abc import Sequence

from ..analysis.run_view import RunView
from ..figures import beside
from ..text import side_by_side
from .blocks import Figure, Section, Table


def compared(subjects: Sequence[RunView], names: Sequence[str]) -> Section:
    """Latency and speed-ups of all records, aligned by method."""
    headings, lines = side_by_side.texts(
        [subject.record for subject in subjects], names, [subject.rows for subject in subjects]
    )
    chart = beside.chart(subjects, names)
    return Section(
        id="beside",
        title="Side by side",
        figures=[Figure.of(chart, "all")] if chart else [],
        tables=[Table.of(headings, lines, words=2, sortable=True)],
        notes=[side_by_side.FOOTNOTE],
    )
