"""`tpprof compare`: measure methods side by side."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from ...reports.outputs import Output, require_folder
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
from .options import (
    SHOWN,
    FiguresOption,
    Format,
    FormatOption,
    HtmlOption,
    PhasesOption,
    Typed,
    WindowOption,
    fail,
    takes,
)
from .output import OverwriteOption, WideOption, files_of
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


@takes(Cells, ModelSpec, Workload, Stopping, Extras, AccuracySpec)
def compare(
    typed: Typed,
    config: ConfigOption = None,
    resume: ResumeOption = False,
    out: OutOption = Path("runs"),
    trace: TraceOption = None,
    phases: PhasesOption = False,
    window: WindowOption = None,
    html: HtmlOption = None,
    figures: FiguresOption = None,
    format_: FormatOption = Format.table,
    wide: WideOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Measure methods side by side and print Table 7: time beside FLOPs."""
    from . import output
    from .progress import progress

    spec = _spec(typed, config)
    windows = output.stopwatches(window, by_phase=phases, format_=format_)
    _check_trace(trace, isolate=spec.stopping.isolate)
    written = [*_records(out), *output.pages(html)]
    if trace is not None:
        written.append(Output("--trace", trace, "trace"))
    read = [config, *output.read_by(spec)]
    output.require_outputs(written, read, figures=figures, overwrite=overwrite)
    done = in_a_child(lambda: _lost(out), lambda: _kept(out))
    from ...reports.analysis.explanation import explain_all
    from ..run.recording import measure

    with progress() as tell:
        command = shlex.join(["tpprof", *sys.argv[1:]])
        outcome = measure(
            spec, out, tell, command=command, resume=resume, trace=trace, overwrite=overwrite
        )
    output.write([outcome.record], [outcome.path.stem], html, figures, overwrite=overwrite)
    output.print_record(outcome.record, format_, by_phase=phases, windows=windows, wide=wide)
    say(f"record: {outcome.path}")
    if explain_all(outcome.record, outcome.record.cells).found:
        again = shlex.join(["tpprof", "explain", str(outcome.path)])
        say(f"where the time went: {again}")
    done()
    raise typer.Exit(outcome.code)


def _lost(out: Path) -> str:
    """What is said where a method ended the process."""
    return (
        f"a method or plug-in ended the process before all was measured{_kept(out)}; --isolate "
        "measures each cell in a process of its own, and goes on"
    )


def _kept(out: Path) -> str:
    """Where that lies which was measured until then."""
    journal = files_of([out])[1] if out.suffix == ".json" else None
    if journal is None:
        journal = max(out.glob("*.jsonl"), default=None, key=lambda path: path.stat().st_mtime)
    if journal is None or not journal.exists():
        return ""
    return f"; what was measured until then is in {journal}"


def _spec(typed: Typed, config: Path | None) -> RunSpec:
    """What is to be run; ends the program where that is no method."""
    from ...reports.record.spec_files import load

    spec = typed.over(load(config)) if config is not None else typed.alone(RunSpec)
    if not spec.cells.methods and not spec.cells.callables:
        fail(
            "name a METHOD (fastv:keep=320), as `tpprof methods` lists them, or code of yours "
            "(--callable MODULE:FUNCTION)"
        )
    return spec


def _check_trace(trace: Path | None, *, isolate: bool) -> None:
    """Fail before anything is measured where no trace could be written."""
    if trace is None:
        return
    if isolate:
        fail("--trace needs a run in one process: leave --isolate out")
    if not trace.name.endswith((".json", ".json.gz")):
        fail(f"--trace {trace}: give a .json or .json.gz file")


def _records(out: Path) -> list[Output]:
    """The record and its journal, where --out names them; in a folder they get a name of their
    own."""
    if out.suffix != ".json":
        require_folder("--out", out)
        return []
    journal = files_of([out])[1]
    return [Output("--out", out, "record"), Output("the journal of --out", journal, "journal")]
