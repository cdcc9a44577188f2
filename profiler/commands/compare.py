"""`tpprof compare`: measure methods side by side."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from ...reports.record.spec import Cells, Extras, ModelSpec, RunSpec, Stopping, Workload
from .options import (
    SHOWN,
    FiguresOption,
    Format,
    FormatOption,
    HtmlOption,
    PhasesOption,
    Typed,
    fail,
    takes,
)
from .output import WideOption
from .supervised import in_a_child

OutOption = Annotated[
    Path, typer.Option(help="Record: a .json file, or a folder.", rich_help_panel=SHOWN)
]
ResumeOption = Annotated[
    bool,
    typer.Option(
        "--resume", help="Go on with the run in --out that did not end.", rich_help_panel="How long"
    ),
]
TraceOption = Annotated[
    Path | None,
    typer.Option(
        "--trace",
        help="Trace one request of the first pruned method (.json, .json.gz).",
        rich_help_panel=SHOWN,
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="Options from a file, as `tpprof init` writes it; what is typed goes first.",
        rich_help_panel="What runs",
    ),
]


@takes(Cells, ModelSpec, Workload, Stopping, Extras)
def compare(
    typed: Typed,
    config: ConfigOption = None,
    resume: ResumeOption = False,
    out: OutOption = Path("runs"),
    trace: TraceOption = None,
    phases: PhasesOption = False,
    html: HtmlOption = None,
    figures: FiguresOption = None,
    format_: FormatOption = Format.table,
    wide: WideOption = False,
) -> None:
    """Measure methods side by side and print Table 7: time beside FLOPs."""
    from . import output
    from .progress import progress

    spec = _spec(typed, config)
    _check_trace(trace, isolate=spec.stopping.isolate)
    output.require_writable(html, figures, [out])
    done = in_a_child(lambda: _lost(out))
    from ...reports.analysis.explanation import explain_all
    from ..run.recording import measure

    with progress() as tell:
        command = shlex.join(["tpprof", *sys.argv[1:]])
        outcome = measure(spec, out, tell, command=command, resume=resume, trace=trace)
    output.print_record(outcome.record, format_, by_phase=phases, wide=wide)
    output.write([outcome.record], [outcome.path.stem], html, figures)
    print(f"record: {outcome.path}", file=sys.stderr)
    if explain_all(outcome.record, outcome.record.cells).found:
        again = shlex.join(["tpprof", "explain", str(outcome.path)])
        print(f"where the time went: {again}", file=sys.stderr)
    done()
    raise typer.Exit(outcome.code)


def _lost(out: Path) -> str:
    """What is left where a method ended the process."""
    from ...reports.record.files import journal_of

    journal = journal_of(out) if out.suffix == ".json" else None
    if journal is None:
        journal = max(out.glob("*.jsonl"), default=None, key=lambda path: path.stat().st_mtime)
    kept = ""
    if journal is not None and journal.exists():
        kept = f"; what was measured until then is in {journal.with_suffix('.json')}"
    return (
        f"a method or plug-in ended the process before all was measured{kept}; --isolate measures "
        "each cell in a process of its own, and goes on"
    )


def _spec(typed: Typed, config: Path | None) -> RunSpec:
    """What is to be run; ends the program where that is no method."""
    from ...reports.record.spec_files import load

    spec = typed.over(load(config)) if config is not None else typed.alone(RunSpec)
    if not spec.cells.methods:
        fail("name a METHOD (fastv:keep=320), as `tpprof methods` lists them")
    return spec


def _check_trace(trace: Path | None, *, isolate: bool) -> None:
    """Fail before anything is measured where no trace could be written."""
    if trace is None:
        return
    if isolate:
        fail("--trace needs a run in one process: leave --isolate out")
    if not trace.name.endswith((".json", ".json.gz")):
        fail(f"--trace {trace}: give a .json or .json.gz file")
    if trace.is_dir() or not trace.parent.is_dir():
        fail(f"--trace {trace}: no such folder, or a folder itself")
