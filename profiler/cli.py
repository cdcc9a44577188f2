"""The command `tpprof`: parses, calls one library function, prints."""

from __future__ import annotations

import shlex
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from ..reports.record import Record
    from .workload import Workload

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Measures what visual token pruning really buys: time beside FLOPs.",
)


class Format(str, Enum):
    """How a record is printed."""

    table = "table"
    json = "json"
    csv = "csv"
    markdown = "markdown"


ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Shape (see `tpprof models`), checkpoint folder or hub id."),
]
KeepOption = Annotated[
    str | None, typer.Option(help="Budget of all methods: a count (320) or a share (0.25, 1/9).")
]
Methods = Annotated[
    list[str], typer.Argument(help="Spec strings: fastv, sparsevlm:version=1.5, fastv:keep=320")
]
FormatOption = Annotated[Format, typer.Option("--format", "-f", help="How to print the result.")]
ImageOption = Annotated[str | None, typer.Option(help="Picture; default: matplotlib's sample.")]
SizeOption = Annotated[str, typer.Option(help="HEIGHTxWIDTH in pixels the picture is resized to.")]
PromptOption = Annotated[str | None, typer.Option(help="Question (needs a tokenizer).")]
TextOption = Annotated[
    str | None, typer.Option(help="BEFORE,AFTER: random text tokens instead of a prompt.")
]
LayoutOption = Annotated[str, typer.Option(help="LLaVA-NeXT: flat (2880) or anyres (newlines).")]
VisualOption = Annotated[
    int | None, typer.Option(help="Synthetic visual tokens, skipping the vision tower.")
]
NewTokensOption = Annotated[int, typer.Option(help="Tokens to generate, greedy, exactly.")]
BatchOption = Annotated[int, typer.Option(help="Equal prompts in one batch.")]
PluginOption = Annotated[
    list[str] | None, typer.Option("--plugin", help="A .py file or module that registers methods.")
]
PhasesOption = Annotated[
    bool, typer.Option("--phases", help="Add a row for every phase: launches, waits, busy time.")
]


@app.command()
def compare(
    methods: Methods,
    model: ModelOption = None,
    keep: KeepOption = None,
    equalize: Annotated[
        str | None, typer.Option(help="layer-mean: solve all budgets for one mean over layers.")
    ] = None,
    attention: Annotated[
        str, typer.Option(help="Comma-separated: rows, maps, published.")
    ] = "maps,rows",
    workload: Annotated[str, typer.Option(help="Workload: pope.")] = "pope",
    image: ImageOption = None,
    image_size: SizeOption = "672x672",
    prompt: PromptOption = None,
    text_tokens: TextOption = None,
    layout: LayoutOption = "flat",
    visual_tokens: VisualOption = None,
    new_tokens: NewTokensOption = 2,
    batch_size: BatchOption = 1,
    runtime: Annotated[
        str, typer.Option(help="Comma-separated: eager, graph (decode), compile (layers).")
    ] = "eager",
    target_ci: Annotated[
        str, typer.Option(help="Stop when every 95 % interval is within +- this (0.02, 2%).")
    ] = "2%",
    min_rounds: Annotated[int, typer.Option(help="Rounds at least (6 give an interval).")] = 6,
    max_rounds: Annotated[int, typer.Option(help="Rounds at most.")] = 200,
    max_seconds: Annotated[float, typer.Option(help="Time for the rounds.")] = 25.0,
    rounds: Annotated[
        int | None, typer.Option(help="Just so many rounds, however long they take.")
    ] = None,
    isolate: Annotated[
        bool, typer.Option("--isolate", help="A fresh process for each cell in each round.")
    ] = False,
    samples: Annotated[int, typer.Option(help="Requests per process (--isolate).")] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out that did not end.")
    ] = False,
    plugin: PluginOption = None,
    phases: PhasesOption = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16.")] = None,
    backend: Annotated[
        str, typer.Option(help="Attention kernel: sdpa, flash_attention_2 or eager.")
    ] = "sdpa",
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Seed of random weights and text.")
    ] = 0,
    out: Annotated[Path, typer.Option(help="Record: a .json file, or a folder.")] = Path("runs"),
    format_: FormatOption = Format.table,
) -> None:
    """Measure methods side by side and print Table 7: time beside FLOPs."""
    if equalize not in (None, "layer-mean"):
        _fail(f"unknown --equalize {equalize!r}; known: layer-mean")
    settings = _workload(
        workload, image, image_size, prompt, text_tokens, layout, visual_tokens, new_tokens,
        batch_size, seed,
    )  # fmt: skip
    from ..reports.record import Settings
    from .console import measure
    from .rounds import check
    from .worker import Job
    from .workload import describe

    measured = Settings(
        attention=attention.split(","), runtimes=runtime.split(","), keep=keep,
        equalize=equalize is not None, isolate=isolate, samples=samples,
        target=_share("--target-ci", target_ci), min_rounds=rounds or min_rounds,
        max_rounds=rounds or max_rounds, max_seconds=None if rounds else max_seconds, seed=seed,
        plugins=plugin or [],
    )  # fmt: skip
    job = Job(
        methods=methods, model=model, device=device, dtype=dtype, backend=backend,
        workload=describe(settings), settings=check(measured),
        command=shlex.join(["tpprof", *sys.argv[1:]]),
    )  # fmt: skip
    outcome = measure(job, out, resume=resume)
    _print(outcome.record, format_, by_phase=phases)
    print(f"record: {outcome.path}", file=sys.stderr)
    raise typer.Exit(outcome.code)


@app.command()
def report(
    file: Annotated[Path, typer.Argument(help="A record that `tpprof compare` saved.")],
    format_: FormatOption = Format.table,
    phases: PhasesOption = False,
) -> None:
    """Print a saved record again, or what a run that did not end has measured."""
    from ..reports.files import load

    _print(load(file), format_, by_phase=phases)


@app.command()
def flops(
    methods: Methods,
    model: ModelOption = "llava-next-7b",
    keep: KeepOption = None,
    attention: Annotated[str, typer.Option(help="rows, maps or published.")] = "rows",
    image_size: SizeOption = "672x672",
    text_tokens: TextOption = None,
    layout: LayoutOption = "flat",
    visual_tokens: VisualOption = None,
    new_tokens: NewTokensOption = 2,
    batch_size: BatchOption = 1,
    plugin: PluginOption = None,
    format_: FormatOption = Format.table,
) -> None:
    """Plan FLOPs, tokens and KV bytes without building the model."""
    from ..methods.core.plugins import load_plugins

    load_plugins(plugin or [])
    settings = _workload(
        "pope", None, image_size, None, text_tokens, layout, visual_tokens, new_tokens,
        batch_size, 0,
    )  # fmt: skip
    from .planning import plan, show

    show(plan(methods, model or "", settings, keep=keep, attention=attention), format_.value)


@app.command("methods")
def list_methods(plugin: PluginOption = None) -> None:
    """List the pruning methods with their papers and knobs."""
    from ..methods.core.plugins import load_plugins
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
        _fail(f"unknown --format {format_.value!r} for env; known: table, json")
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
    """Entry point: errors a user can mend become one line and exit code 2."""
    try:
        app()
    except KeyboardInterrupt:
        print("tpprof: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        from ..methods.core.errors import InputError
        from ..reports.record import RecordError

        if isinstance(error, (InputError, RecordError)):
            _fail(str(error))
        raise


def _workload(
    name: str,
    image: str | None,
    size: str,
    prompt: str | None,
    text_tokens: str | None,
    layout: str,
    visual_tokens: int | None,
    new_tokens: int,
    batch_size: int,
    seed: int,
) -> Workload:
    from .workload import Workload

    height, width = _pair("--image-size", size, "x", "HEIGHTxWIDTH, as 672x672")
    return Workload(
        name=name,
        image=image,
        size=(height, width),
        prompt=prompt,
        text_tokens=_pair("--text-tokens", text_tokens, ",", "BEFORE,AFTER, as 35,25")
        if text_tokens
        else None,
        layout=layout,  # type: ignore[arg-type]
        visual_tokens=visual_tokens,
        new_tokens=new_tokens,
        batch_size=batch_size,
        seed=seed,
    )


def _pair(option: str, text: str, separator: str, wanted: str) -> tuple[int, int]:
    parts = text.split(separator)
    if len(parts) != 2 or not all(part.strip().isdigit() for part in parts):
        _fail(f"{option} {text!r} is not {wanted}")
    return int(parts[0]), int(parts[1])


def _share(option: str, text: str) -> float:
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        _fail(f"{option} {text!r} is not a share, as 0.02 or 2%")


def _print(record: Record, format_: Format, *, by_phase: bool) -> None:
    """The table of methods; `by_phase`: for people beside it, for machines instead of it, the
    table of phases."""
    from ..reports import formats, phases, table

    source = phases if by_phase else table
    if format_ is Format.json:
        print(formats.as_json(source.plain(record)), end="")
    elif format_ is Format.csv:
        print(formats.as_csv(source.plain(record)), end="")
    elif format_ is Format.markdown:
        print(formats.as_markdown(*source.texts(record)), end="")
    else:
        from ..reports.terminal import show

        show(record, formats.console(), by_phase=by_phase)


def _fail(message: str) -> NoReturn:
    print(f"tpprof: {message}", file=sys.stderr)
    raise SystemExit(2)
