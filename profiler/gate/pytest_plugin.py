"""A pytest plug-in for projects that keep a method of their own: `pytest --tpprof-gate FILE`.

One test for each cell of the baseline. Without the option it does nothing and imports nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ...reports.gate.verdicts import Judged

OPTION = "--tpprof-gate"
ACCEPT = "--tpprof-accept-unjudged"
WHOLE = "baseline"
"""The test of what no cell of the baseline owns: that it can be read, and lacks none."""


class GateError(Exception):
    """A cell that fails the gate, or that cannot be judged; the message is its rows."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tpprof")
    group.addoption(
        OPTION,
        action="append",
        default=[],
        metavar="BASELINE",
        help="Count again what this file of `tpprof gate check` holds; one test for each cell.",
    )
    group.addoption(
        ACCEPT,
        action="store_true",
        help="What cannot be judged here, by --tpprof-gate, fails no test.",
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    for name in config.getoption(OPTION):
        path = Path(name)
        found = GateResults(path, accept_unjudged=config.getoption(ACCEPT))
        for cell in found.cells():
            title = f"tpprof-gate {path.name} [{cell}]"
            items.append(GateItem.from_parent(session, name=title, cell=cell, found=found))


class GateResults:
    """What the gate finds, once for all cells: nothing is counted before the first test runs, and
    then in a process of its own, which loads the plug-ins."""

    def __init__(self, path: Path, *, accept_unjudged: bool) -> None:
        self.path, self.accept_unjudged = path, accept_unjudged
        self._rows: list[Judged] | None = None

    def cells(self) -> list[str]:
        """The cells of the baseline, and a name for what none of them owns."""
        from ...reports.gate import baseline
        from ...reports.gate.verdicts import NoVerdictError

        try:
            held = baseline.load_baseline(self.path).snapshot.cells
        except NoVerdictError:
            return [WHOLE]
        return ["model", *(counts.cell for counts in held), WHOLE]

    def rows(self, cell: str) -> list[Judged]:
        """The rows of one cell, and those that no cell owns."""
        if self._rows is None:
            from .exact import check_baseline

            self._rows = check_baseline(self.path).rows
        if cell == WHOLE:
            owned = self.cells()[:-1]
            return [row for row in self._rows if row.cell not in owned]
        own = [row for row in self._rows if row.cell == cell]
        return own or [row for row in self._rows if row.cell in ("-", "all cells")]


class GateItem(pytest.Item):
    """The exact gate of one cell."""

    def __init__(self, *, cell: str, found: GateResults, **more: object) -> None:
        super().__init__(**more)  # type: ignore[arg-type]
        self.cell, self.found = cell, found

    def runtest(self) -> None:
        from ...reports.gate.verdicts import CODES, Verdict

        rows = self.found.rows(self.cell)
        fine = {verdict for verdict, code in CODES.items() if code == 0}
        if self.found.accept_unjudged:
            fine.add(Verdict.NOT_JUDGED)
        bad = [row for row in rows if row.verdict not in fine]
        if bad or not (rows or self.cell == WHOLE):
            raise GateError("\n".join(_told(bad)) or "NO VERDICT: nothing was counted")

    def repr_failure(
        self, excinfo: pytest.ExceptionInfo[BaseException], style: object = None
    ) -> str:
        if isinstance(excinfo.value, GateError):
            first, *rest = str(excinfo.value).splitlines()
            return "\n".join([f"{first} (tpprof gate against {self.found.path})", *rest])
        return str(super().repr_failure(excinfo))

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.found.path, None, self.name


def _told(rows: Iterable[Judged]) -> list[str]:
    return [
        f"{row.verdict.value}: {row.metric} {row.before} -> {row.after}; {row.rule}" for row in rows
    ]
