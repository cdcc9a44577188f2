"""`tpprof init`: a file with all options of a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ...methods import load_plugins, parse
from ...reports.record.spec import Cells, Extras, ModelSpec, RunSpec, Stopping, Workload
from .options import Typed, fail, takes


@takes(Cells, ModelSpec, Workload, Stopping, Extras)
def init(
    typed: Typed,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("run.toml"),
) -> None:
    """Write run.toml: every option of `tpprof compare`, and what it is for."""
    from ...reports.record.journal import write_whole
    from ...reports.record.spec_files import as_toml, relative

    if out.exists():
        fail(f"{out} is there already; change it, or give another --out")
    wanted = typed.alone(RunSpec)
    load_plugins(wanted.cells.plugin)
    for method in wanted.cells.methods:
        parse(method)  # which says what is known
    spec = relative(wanted, out.parent)
    try:
        write_whole(out, as_toml(spec).encode())
    except OSError as error:
        fail(f"{out} cannot be written ({error.strerror or error})")
    except UnicodeEncodeError:
        fail("an option holds bytes that are no UTF-8, which a TOML file cannot hold")
    print(f"{out} is written: tpprof compare --config {out}", file=sys.stderr)
