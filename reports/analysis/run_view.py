"""A record with what pages and figures ask of it again and again, computed once."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from ..record.kept import Kept, pruned
from ..record.labels import name
from ..record.schema import Cell, Record
from . import caveats
from .accuracy.scores import Score, of_record
from .explanation import Explanation, Explanations, explain_all
from .summary import Row, rows

MOST = 12  # cells that a figure can show and still be read


@dataclass(frozen=True)
class RunView:
    """A record, and which of its cells are drawn one by one: the first twelve measured."""

    record: Record

    @functools.cached_property
    def rows(self) -> list[Row]:
        """The rows of the table, in the record's order."""
        return rows(self.record)

    @functools.cached_property
    def warnings(self) -> list[str]:
        """What makes the numbers worth less."""
        return caveats.warnings(self.record, self.rows)

    @functools.cached_property
    def scores(self) -> dict[str, Score]:
        """F1 and what belongs to it, by method, where accuracy was asked for."""
        return of_record(self.record)

    @functools.cached_property
    def measured(self) -> list[Row]:
        """The rows that have samples, and did not fail."""
        return [row for row in self.rows if row.latency is not None]

    @property
    def drawn(self) -> list[Row]:
        """The measured rows that are drawn one by one."""
        return self.measured[:MOST]

    @property
    def cells(self) -> list[Cell]:
        """The cells that are drawn one by one."""
        return [row.cell for row in self.drawn]

    @functools.cached_property
    def _explained(self) -> Explanations:
        return explain_all(self.record, self.cells)

    @property
    def explained(self) -> list[tuple[Cell, Explanation]]:
        """The drawn cells with their explanations."""
        return self._explained.found

    @property
    def unexplained(self) -> list[str]:
        """A line for each drawn cell whose explanation failed."""
        return self._explained.failed

    @functools.cached_property
    def methods(self) -> list[str]:
        """The methods, in the record's order: what a colour stands for."""
        return list(dict.fromkeys(cell.method for cell in self.record.cells))

    @functools.cached_property
    def kept(self) -> dict[str, list[Kept]]:
        """The prunes of each method, in the record's order, where kept tokens were asked for."""
        found: dict[str, list[Kept]] = {}
        for cell in self.record.cells:
            if (entries := pruned(cell.kept)) and cell.method not in found:
                found[cell.method] = entries
        return found

    def vanilla(self) -> Row | None:
        """The first measured vanilla."""
        return next((row for row in self.measured if row.cell.name == "vanilla"), None)


def label(cell: Cell) -> str:
    """A cell as figures name it."""
    return name(cell).replace(" with ", ", ").replace(" under ", ", ")
