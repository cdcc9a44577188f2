"""The command `tpprof`: its subcommands, and the exit code of what goes wrong."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer

from .commands.calibrate import calibrate_device
from .commands.compare import compare
from .commands.env import show_environment
from .commands.explain import explain
from .commands.flops import flops
from .commands.gate import gate
from .commands.lists import methods, models
from .commands.options import fail
from .commands.report import report
from .commands.tokens import tokens

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Measures what visual token pruning really buys: time beside FLOPs.",
)
for command in (compare, report, tokens, explain, flops):
    app.command()(command)
app.command("calibrate")(calibrate_device)
app.command()(methods)
app.command()(models)
app.command("env")(show_environment)
app.add_typer(gate, name="gate")


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
