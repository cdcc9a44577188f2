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
    rounds: Annotated[int | None, typer.Option(help="Rounds; default: as time allows.")] = None,
    max_seconds: Annotated[float, typer.Option(help="Time for the rounds, at least 6.")] = 25.0,
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
    from .compare import Comparison, Options
    from .console import measure

    comparison = Comparison(
        methods, model=model, device=device, dtype=dtype, backend=backend, seed=seed,
        workload=settings, command=shlex.join(["tpprof", *sys.argv[1:]]),
        options=Options(
            attention=tuple(attention.split(",")),  # type: ignore[arg-type]
            keep=keep, equalize=equalize is not None, rounds=rounds, seconds=max_seconds,
        ),
    )  # fmt: skip
    record, path, interrupted = measure(comparison, out)
    _print(record, format_)
    print(f"record: {path}", file=sys.stderr)
    if interrupted:
        raise typer.Exit(130)
    if any(cell.error for cell in record.cells):
        raise typer.Exit(1)


@app.command()
def report(
    file: Annotated[Path, typer.Argument(help="A record that `tpprof compare` saved.")],
    format_: FormatOption = Format.table,
) -> None:
    """Print a saved record again."""
    from ..reports.record import load

    _print(load(file), format_)


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
    format_: FormatOption = Format.table,
) -> None:
    """Plan FLOPs, tokens and KV bytes without building the model."""
    settings = _workload(
        "pope", None, image_size, None, text_tokens, layout, visual_tokens, new_tokens,
        batch_size, 0,
    )  # fmt: skip
    from .planning import plan, show

    show(plan(methods, model or "", settings, keep=keep, attention=attention), format_.value)


@app.command("methods")
def list_methods() -> None:
    """List the pruning methods with their papers and knobs."""
    from .catalogue import methods

    methods()


@app.command("models")
def list_models() -> None:
    """List the model shapes."""
    from .catalogue import models

    models()


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
    from ..methods.core.errors import InputError
    from ..reports.record import RecordError

    try:
        app()
    except (InputError, RecordError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print("tpprof: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


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


def _print(record: Record, format_: Format) -> None:
    from ..reports import formats, table

    if format_ is Format.json:
        print(formats.as_json(table.plain(record)), end="")
    elif format_ is Format.csv:
        print(formats.as_csv(table.plain(record)), end="")
    elif format_ is Format.markdown:
        print(formats.as_markdown(*table.texts(record)), end="")
    else:
        from ..reports.terminal import show

        show(record, formats.console())


def _fail(message: str) -> NoReturn:
    print(f"tpprof: {message}", file=sys.stderr)
    raise SystemExit(2)
