"""`tpprof gate`: its commands parse, call one function, print, and end with the gate's code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...reports.gate.snapshot import Subject
from ..options import fail
from .options import (
    JsonOption,
    JUnitOption,
    SummaryOption,
    names_a_subject,
)

if TYPE_CHECKING:
    from ...reports.gate.verdicts import Gate

app = typer.Typer(
    no_args_is_help=True,
    help="Fail a change that makes a method slower, or makes it keep, compute or allocate more. "
    "Exit codes: 0 pass, 1 regression, 2 bad input, 3 no verdict, 4 inconclusive.",
)


@app.command()
@names_a_subject
def check(
    subject: Subject | None,
    baseline: Annotated[Path, typer.Argument(help="The committed file of counts (JSON).")],
    update: Annotated[
        bool, typer.Option("--update", help="Count anew and accept: write the baseline.")
    ] = False,
    memory: Annotated[
        float | None, typer.Option(help="Tolerance of the allocator's peak, a share (0.01).")
    ] = None,
    json: JsonOption = None,
    junit: JUnitOption = None,
    summary: SummaryOption = None,
) -> None:
    """The exact gate: count tokens, FLOPs, bytes and operators again. No GPU needed."""
    from . import check as exact_gate

    if not update and (subject is not None or memory is not None):
        fail("the baseline says what is counted; METHODs and their options go with --update")
    if update:
        gate = exact_gate.update(baseline, subject, memory)
    else:
        gate = exact_gate.check(baseline)
    finish(gate, json, junit, summary)


def finish(gate: Gate, json: Path | None, junit: Path | None, summary: Path | None) -> None:
    """Tell what was found in all the ways that were asked for; end with the gate's code."""
    from ...reports.formats import console
    from ...reports.gate import told

    told.show(gate, console())
    for path, content in ((json, told.as_json), (junit, told.as_junit)):
        if path is not None:
            write(path, content(gate))
    if summary is not None:
        told.append_summary(gate, summary)
    raise typer.Exit(gate.code)


def write(path: Path, content: bytes) -> None:
    """One of the files that a gate leaves; one that cannot be written is bad input."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        fail(f"{path} cannot be written ({error.strerror or error})")
