"""`tpprof trend`: one method over stored records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .options import Format, FormatOption, fail
from .output import WideOption


def trend(
    records: Annotated[
        list[Path], typer.Argument(help="Records of one machine, or folders of them.")
    ],
    method: Annotated[
        str, typer.Option(help="A spec string (fastv:keep=320), or a cell (fastv with rows).")
    ] = "vanilla",
    of: Annotated[
        Literal["latency", "speedup"], typer.Option("--of", help="latency or speedup.")
    ] = "latency",
    format_: FormatOption = Format.table,
    wide: WideOption = False,
) -> None:
    """Show a method over commits and dates, and where its times step."""
    from ...reports.record.base import RecordError
    from ...reports.record.files import load
    from ...reports.sanitize import say
    from ...reports.sweep.trend import series, trend_table
    from .output import print_table, require_format

    require_format(format_, "trend", [Format.long])
    paths = [
        found
        for path in records
        for found in (sorted(path.glob("*.json")) if path.is_dir() else [path])
    ]
    loaded, names = [], []
    for path in paths:
        try:
            loaded.append(load(path))
            names.append(path.name)
        except RecordError as error:
            if path in records:
                raise
            say(f"! left out: {error}")  # a folder may hold other files
    if not loaded:
        fail("no record there; `tpprof compare` makes them")
    print_table(trend_table(series(loaded, names, method, of)), format_, wide=wide)
