"""A comparison run from the command line: progress on stderr, the record saved as it grows."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ..methods.core.errors import InputError
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
    with Progress(*columns, console=stderr, transient=True, auto_refresh=False) as bar:
        task = bar.add_task("start", total=None)

        def tell(label: str, done: int, total: int) -> None:
            bar.update(task, description=label, completed=done, total=total, refresh=True)

        try:
            comparison.run(tell, lambda record: schema.save(record, path))
        except KeyboardInterrupt:
            interrupted = True
    record = comparison.record()
    schema.save(record, path)
    return record, path, interrupted


def _path(comparison: Comparison, out: Path) -> Path:
    """Where the record goes; raises InputError before anything is measured if it cannot."""
    stamp = comparison.created.strftime("%Y%m%d-%H%M%S")
    name = comparison.model.name.replace("/", "_")
    path = out if out.suffix == ".json" else out / f"{stamp}-{name}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: {error.strerror}; give a folder or a .json file") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"--out {out} cannot be written; give a folder or a .json file")
    return path
