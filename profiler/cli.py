"""The command `tpprof`: its subcommands, and the exit code of what goes wrong."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer
from typer import Abort
from typer.core import TyperGroup

from ..reports.record.spec import OptionError
from ..reports.sanitize import one_line, quoted, say, write_any_text
from .commands.authoring import check, new_method
from .commands.compare import compare
from .commands.evaluate import evaluation
from .commands.flops import flops
from .commands.gate import gate
from .commands.init import init
from .commands.lists import methods, models
from .commands.machine import calibrate_device, show_environment
from .commands.options import StrictCommand, fail
from .commands.report import explain, report
from .commands.sweep import sweep, trend
from .commands.tokens import tokens

UNREAD = 141
"""Exit code where standard output cannot be written: 128 + SIGPIPE, as other commands end."""
UNWRITABLE = (errno.EPIPE, errno.EBADF, errno.ENOSPC, errno.EDQUOT, errno.EIO)


class UnreadError(Exception):
    """Standard output cannot be written."""


class ReadGroup(TyperGroup):
    """Commands whose output must be read: click would end with 1 at a closed pipe, which is the
    code of a regression."""

    def make_context(self, *given: Any, **named: Any) -> Any:  # where --help is printed
        with _read():
            return super().make_context(*given, **named)

    def invoke(self, ctx: Any) -> Any:
        with _read():
            return super().invoke(ctx)


@contextmanager
def _read() -> Iterator[None]:
    """See that what is printed can be written. Raises UnreadError."""
    try:
        try:
            yield
        finally:  # behind an Exit, too, which is how a gate ends
            if sys.stdout is None:
                raise OSError(errno.EBADF, "standard output is closed")
            sys.stdout.flush()
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # how rich, which writes help, ends
            raise UnreadError from ended
        raise
    except OSError as error:
        if error.errno in UNWRITABLE and error.filename is None:
            raise UnreadError from error
        raise


app = typer.Typer(
    cls=ReadGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Measures what visual token pruning really buys: time beside FLOPs.",
)
COMMANDS: dict[str, Callable[..., None]] = {
    "compare": compare,
    "sweep": sweep,
    "init": init,
    "report": report,
    "explain": explain,
    "trend": trend,
    "tokens": tokens,
    "check": check,
    "new-method": new_method,
    "flops": flops,
    "calibrate": calibrate_device,
    "env": show_environment,
    "methods": methods,
    "models": models,
}
for name, command in COMMANDS.items():
    app.command(name, cls=StrictCommand)(command)
app.add_typer(evaluation, name="eval")
app.add_typer(gate, name="gate")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from .machine.environment import own_version

        print(own_version())
        raise typer.Exit


def main() -> None:
    """Entry point: errors a user can mend become one line and exit code 2. Any other one is ours,
    and must not look like a cell that failed, or like a regression: exit code 70."""
    write_any_text()
    try:
        raise SystemExit(app(standalone_mode=False, prog_name="tpprof") or 0)
    except UnreadError:
        _end_unread()
    except (KeyboardInterrupt, Abort):
        say("tpprof: interrupted")
        raise SystemExit(130) from None
    except Exception as error:
        _explain(error)


def _explain(error: Exception) -> NoReturn:
    """End with one line, or with a traceback where the error is ours."""
    from ..methods.contract.errors import InputError
    from ..reports.outputs import OutputError
    from ..reports.record.base import RecordError

    if isinstance(error, OptionError):
        fail(error.as_flag)
    if isinstance(error, (InputError, OutputError, RecordError)):
        fail(str(error))
    if hasattr(error, "format_message"):  # of the command line itself: click's, or typer's own
        _show_usage(error)
    if isinstance(error, OSError) and error.filename is not None:
        fail(f"{quoted(str(error.filename))}: {error.strerror or error}")
    traceback.print_exc()
    raise SystemExit(70) from None


def _end_unread() -> NoReturn:
    """Nobody reads the output any more, or there is none: what was to be said was not said, which
    no other exit code may hide. Python writes the rest of it as it ends: into nothing."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    say("tpprof: the result was not shown: standard output is closed or full")
    raise SystemExit(UNREAD)


def _show_usage(error: Any) -> NoReturn:
    """One line for a command line that is none; help for one that is empty."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        raise SystemExit(2)
    line = " ".join(str(error.format_message()).split()).replace("Value error, ", "")
    command = error.ctx.command_path if getattr(error, "ctx", None) else "tpprof"
    fail(f"{one_line(line.rstrip('.'), 300)}; see `{command} --help`")


if __name__ == "__main__":
    main()
