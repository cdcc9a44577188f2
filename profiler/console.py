"""A comparison run from the command line: progress on stderr, the record saved as it grows."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ..reports import record as schema
from .compare import Comparison


def measure(comparison: Comparison, out: Path) -> tuple[schema.Record, Path, bool]:
    """Run it; returns the record, its path, and whether Ctrl-C ended it early.

    The record is saved after every round, so that whatever ends the run loses one round at most.
    """
    path = _path(comparison, out)
    stderr = Console(file=sys.stderr)
    print(f"measuring {comparison.model.name}: {comparison.reason}", file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    interrupted = False
    with Progress(*columns, console=stderr, transient=True) as bar:
        task = bar.add_task("start", total=None)

        def tell(label: str, done: int, total: int) -> None:
            bar.update(task, description=label, completed=done, total=total)

        try:
            comparison.run(tell, lambda record: schema.save(record, path))
        except KeyboardInterrupt:
            interrupted = True
    record = comparison.record()
    schema.save(record, path)
    return record, path, interrupted


def _path(comparison: Comparison, out: Path) -> Path:
    if out.suffix == ".json":
        return out
    stamp = comparison.created.strftime("%Y%m%d-%H%M%S")
    name = comparison.model.name.replace("/", "_")
    return out / f"{stamp}-{name}.json"
