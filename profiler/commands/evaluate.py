"""`tpprof eval`: what pruning does to the answers; nothing is timed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...reports.outputs import require_folder
from ...reports.record.spec import AccuracySpec, Cells, ModelSpec, RunSpec, Workload
from ...reports.sanitize import say
from .options import SHOWN, Format, FormatOption, StrictCommand, Typed, takes
from .output import WideOption, print_table, require_format
from .supervised import guarded

evaluation = typer.Typer(
    no_args_is_help=True, help="Ask a benchmark's questions under each method; nothing is timed."
)
OMITTED = (
    *("equalize", "runtime", "accuracy", "callable", "python", "tensor_parallel", "pipeline"),
    *(name for name in Workload.__struct_fields__ if name != "layout"),
)
USUAL = {"attention": ("rows",), "layout": "anyres"}


@evaluation.callback()
def _commands() -> None:
    """One command a benchmark, though there is but one yet."""


@evaluation.command("pope", cls=StrictCommand)
@takes(Cells, ModelSpec, Workload, AccuracySpec, omit=OMITTED, usual=USUAL)
@guarded
def pope(
    typed: Typed,
    new_tokens: Annotated[
        int, typer.Option(help="Tokens of an answer at most.", min=1, max=4096)
    ] = 16,
    batch_size: Annotated[
        int, typer.Option(help="Questions of equal length at once.", min=1, max=4096)
    ] = 16,
    output: Annotated[
        Path,
        typer.Option(help="Folder of the answers; gone on with.", rich_help_panel=SHOWN),
    ] = Path("runs/pope"),
    format_: FormatOption = Format.table,
    wide: WideOption = False,
) -> None:
    """POPE: does the model still see which objects are there?

    Vanilla is always asked, first. Answers are written as they are given, a file a method; the same
    command goes on where it was ended, and reads complete answers again (by another --rule)
    without the model.
    """
    require_format(format_, "eval", [Format.long])
    require_folder("--output", output)
    from ...reports.text.accuracy import accuracy_table
    from ..accuracy.resumable import ResumableEvaluation
    from ..run.interrupts import Terminated, terminable
    from .progress import progress

    spec = typed.alone(RunSpec)
    asked = ResumableEvaluation(spec, output, new_tokens=new_tokens, batch_size=batch_size)
    code = 0
    try:
        with terminable(), progress() as tell:
            asked.run(tell)
    except KeyboardInterrupt as stopped:
        code = 143 if isinstance(stopped, Terminated) else 130
    print_table(accuracy_table(asked.accuracy, spec.accuracy.rule), format_, wide=wide)
    say(f"answers: {output / 'answers'}")
    raise typer.Exit(code or int(any(row.error for row in asked.accuracy.answers)))
