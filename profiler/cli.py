"""The command `tpprof`: parses, calls one library function, prints."""

from __future__ import annotations

import shlex
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from .cli_plan import calibrate_device, flops
from .gate.cli import app as gate
from .options import (
    BackendOption,
    BatchOption,
    DeviceOption,
    DtypeOption,
    EqualizeOption,
    FiguresOption,
    Format,
    FormatOption,
    HtmlOption,
    ImageOption,
    ImagesOption,
    IsolateOption,
    KeepOption,
    LayoutOption,
    MaxRoundsOption,
    MaxSecondsOption,
    Methods,
    MinRoundsOption,
    ModelOption,
    NewTokensOption,
    OutOption,
    PhasesOption,
    PluginOption,
    PoliciesOption,
    PromptOption,
    ResumeOption,
    RoundsOption,
    RuntimeOption,
    SamplesOption,
    SeedOption,
    SizeOption,
    TargetOption,
    TextOption,
    TokensOption,
    TraceOption,
    VisualOption,
    WorkloadOption,
    check_trace,
    fail,
    share,
    workload_of,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Measures what visual token pruning really buys: time beside FLOPs.",
)
app.add_typer(gate, name="gate")


@app.command()
def compare(
    methods: Methods,
    model: ModelOption = None,
    keep: KeepOption = None,
    equalize: EqualizeOption = None,
    attention: PoliciesOption = "maps,rows",
    workload: WorkloadOption = "pope",
    image: ImageOption = None,
    image_size: SizeOption = "672x672",
    prompt: PromptOption = None,
    text_tokens: TextOption = None,
    layout: LayoutOption = "flat",
    visual_tokens: VisualOption = None,
    new_tokens: NewTokensOption = 2,
    batch_size: BatchOption = 1,
    runtime: RuntimeOption = "eager",
    target_ci: TargetOption = "2%",
    min_rounds: MinRoundsOption = 6,
    max_rounds: MaxRoundsOption = 200,
    max_seconds: MaxSecondsOption = 25.0,
    rounds: RoundsOption = None,
    isolate: IsolateOption = False,
    samples: SamplesOption = 1,
    resume: ResumeOption = False,
    plugin: PluginOption = None,
    phases: PhasesOption = False,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    backend: BackendOption = "sdpa",
    seed: SeedOption = 0,
    out: OutOption = Path("runs"),
    tokens: TokensOption = False,
    trace: TraceOption = None,
    html: HtmlOption = None,
    figures: FiguresOption = None,
    format_: FormatOption = Format.table,
) -> None:
    """Measure methods side by side and print Table 7: time beside FLOPs."""
    if equalize not in (None, "layer-mean"):
        fail(f"unknown --equalize {equalize!r}; known: layer-mean")
    settings = workload_of(
        workload, image, image_size, prompt, text_tokens, layout, visual_tokens, new_tokens,
        batch_size, seed,
    )  # fmt: skip
    from ..reports.record.schema import Settings
    from . import printing
    from .console import measure
    from .rounds import check
    from .worker import Job
    from .workload import describe

    measured = Settings(
        attention=attention.split(","), runtimes=runtime.split(","), keep=keep,
        equalize=equalize is not None, isolate=isolate, samples=samples,
        target=share("--target-ci", target_ci), min_rounds=min_rounds, max_rounds=max_rounds,
        max_seconds=max_seconds, seed=seed, plugins=plugin or [], tokens=tokens,
    )  # fmt: skip
    if rounds is not None and rounds < 1:
        fail(f"--rounds must be at least 1, not {rounds}")
    if rounds is not None:
        measured.min_rounds, measured.max_rounds, measured.max_seconds = rounds, rounds, None
    check_trace(trace, isolate=isolate)
    printing.can_write(html, figures, [out])
    job = Job(
        methods=methods, model=model, device=device, dtype=dtype, backend=backend,
        workload=describe(settings), settings=check(measured),
        command=shlex.join(["tpprof", *sys.argv[1:]]),
    )  # fmt: skip
    outcome = measure(job, out, resume=resume, trace=trace)
    printing.show(outcome.record, format_, by_phase=phases)
    printing.write([outcome.record], [outcome.path.stem], html, figures)
    print(f"record: {outcome.path}", file=sys.stderr)
    if any(cell.explanation for cell in outcome.record.cells):
        again = shlex.join(["tpprof", "explain", str(outcome.path)])
        print(f"where the time went: {again}", file=sys.stderr)
    raise typer.Exit(outcome.code)


@app.command()
def report(
    files: Annotated[
        list[Path], typer.Argument(help="Records that `tpprof compare` saved; several: compared.")
    ],
    format_: FormatOption = Format.table,
    phases: PhasesOption = False,
    html: HtmlOption = None,
    figures: FiguresOption = None,
) -> None:
    """Print saved records again, or what a run that did not end has measured; several side by
    side."""
    from ..reports.record import files as saved
    from ..reports.text import side_by_side
    from . import printing

    records, names = [saved.load(file) for file in files], side_by_side.names_of(files)
    printing.can_write(html, figures, files)
    if phases and len(records) > 1:
        fail("--phases is for one record; several stand side by side, method by method")
    if len(records) == 1:
        printing.show(records[0], format_, by_phase=phases)
    else:
        printing.show_beside(records, names, format_)
    printing.write(records, names, html, figures)


@app.command("tokens")
def show_tokens(
    methods: Methods,
    image: ImagesOption = None,
    model: ModelOption = None,
    keep: KeepOption = None,
    attention: Annotated[str, typer.Option(help="rows, maps or published.")] = "rows",
    image_size: SizeOption = "672x672",
    prompt: PromptOption = None,
    layout: LayoutOption = "flat",
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    seed: SeedOption = 0,
    plugin: PluginOption = None,
    out: Annotated[Path, typer.Option(help="Folder for the figures.")] = Path("runs/tokens"),
    format_: FormatOption = Format.table,
) -> None:
    """Draw which visual tokens methods keep of pictures, and how unevenly; nothing is timed."""
    settings = workload_of(
        "pope", None, image_size, prompt, None, layout, None, 1, 1, seed,
    )  # fmt: skip
    from . import printing, tokens_table
    from .tokens import Look

    printing.known(format_, "tokens", [Format.long])
    printing.can_write(None, out)
    look = Look(
        methods, images=image or [""], workload=settings, model=model, keep=keep,
        attention=attention, device=device, dtype=dtype, seed=seed, plugins=plugin or [],
    )  # fmt: skip
    tokens_table.show(look.seen(), look.pictures, out, format_)


@app.command()
def explain(
    file: Annotated[Path, typer.Argument(help="A record that `tpprof compare` saved.")],
    method: Annotated[
        str | None, typer.Argument(help="A method of it, by name or spec; default: all.")
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Add the decoder layers.")] = False,
    format_: FormatOption = Format.table,
) -> None:
    """Show where the time between the FLOPs promise and the clock went, and what to do."""
    from ..reports.record.files import load
    from ..reports.text import table, waterfall
    from .printing import known

    known(format_, "explain", [Format.long])
    record = load(file)
    if format_ is Format.json:
        print(table.as_json(waterfall.plain(record, method)), end="")
    elif format_ is Format.csv:
        print(table.as_csv(waterfall.flat(record, method)), end="")
    elif format_ is Format.markdown:
        print(waterfall.markdown(record, method), end="")
    elif format_ is Format.latex:
        found = waterfall.chosen(record, method)
        print(table.as_latex(*waterfall.side_by_side(found)), end="")
    else:
        waterfall.show(record, table.console(), method, by_layer=layers)


app.command()(flops)
app.command("calibrate")(calibrate_device)


@app.command("methods")
def list_methods(plugin: PluginOption = None) -> None:
    """List the pruning methods with their papers and knobs."""
    from ..methods.contract.plugins import load_plugins
    from .catalogue import methods

    load_plugins(plugin or [])
    methods()


@app.command("models")
def list_models() -> None:
    """List the model shapes."""
    from .catalogue import models

    models()


@app.command("env")
def show_environment(
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    format_: FormatOption = Format.table,
) -> None:
    """Print what a record keeps of this machine, and what here would spoil a measurement."""
    if format_ not in (Format.table, Format.json):
        fail(f"unknown --format {format_.value!r} for env; known: table, json")
    from .doctor import show

    show(device, format_.value)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        print(installed("tpprof"))
        raise typer.Exit


def main() -> None:
    """Entry point: errors a user can mend become one line and exit code 2. Any other one is ours,
    and must not look like a cell that failed, or like a regression: exit code 70."""
    try:
        app()
    except KeyboardInterrupt:
        print("tpprof: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        from ..methods.contract.errors import InputError
        from ..reports.record.base import RecordError

        if isinstance(error, (InputError, RecordError)):
            fail(str(error))
        traceback.print_exc()
        raise SystemExit(70) from None
