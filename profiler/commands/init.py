"""`tpprof init`: a file with all options of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...methods import load_plugins, parse
from ...reports.outputs import Output, write
from ...reports.record.spec import (
    AccuracySpec,
    Cells,
    Extras,
    ModelSpec,
    RunSpec,
    Stopping,
    Workload,
)
from ...reports.sanitize import say
from .options import Typed, takes
from .output import OverwriteOption, read_by, require_outputs
from .supervised import guarded


@takes(Cells, ModelSpec, Workload, Stopping, Extras, AccuracySpec)
@guarded
def init(
    typed: Typed,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("run.toml"),
    overwrite: OverwriteOption = False,
) -> None:
    """Write run.toml: every option of `tpprof compare`, and what it is for."""
    from ...reports.record.spec_files import as_toml, relative

    wanted = typed.alone(RunSpec)
    require_outputs([Output("--out", out, "text")], read_by(wanted), overwrite=overwrite)
    for note in load_plugins(wanted.cells.plugin):
        say(note)
    for method in wanted.cells.methods:
        parse(method)  # which says what is known
    spec = relative(wanted, out.parent)
    write(out, as_toml(spec).encode(), "text", overwrite=overwrite)
    say(f"{out} is written: tpprof compare --config {out}")
